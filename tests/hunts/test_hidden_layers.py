"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from labs.hunts.foundations import check_hidden_layers
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/01_foundations/01_write_the_training_loop"


def stage(a, b):
    return nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())


def stages(depth, width):
    return [stage(a, b) for a, b in pairwise([196, *[width] * depth])]


class Net(nn.Module):
    """Hold the head; each fix below is one way to hold the hidden layers."""

    def __init__(self, depth, width):
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.hold(stages(depth, width))

    def hold(self, layers):
        self.hidden = layers

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


class AsModuleList(Net):
    def hold(self, layers):
        self.hidden = nn.ModuleList(layers)


class AsSequential(Net):
    def hold(self, layers):
        self.hidden = nn.Sequential(*layers)


class AddedOneByOne(Net):
    def hold(self, layers):
        self.hidden = layers
        for k, layer in enumerate(layers):
            self.add_module(f"hidden_{k}", layer)


class AsModuleDict(Net):
    def hold(self, layers):
        self.hidden = nn.ModuleDict({str(k): layer for k, layer in enumerate(layers)})

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden.values():
            x = layer(x)
        return self.head(x)


class AsTuple(Net):
    def hold(self, layers):
        self.hidden = tuple(layers)


class AsDict(Net):
    def hold(self, layers):
        self.hidden = dict(enumerate(layers))

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden.values():
            x = layer(x)
        return self.head(x)


class LinearOnly(Net):
    """Hand over the linear layers; the norms stay unknown."""

    def hold(self, layers):
        self.hidden = layers
        self.known = nn.ModuleList(layer[0] for layer in layers)


class WeightsOnly(Net):
    """Hand over the weights and not the modules: eval mode and checkpoints miss the norms."""

    def hold(self, layers):
        self.hidden = layers
        self.known = nn.ParameterList(p for layer in layers for p in layer.parameters())


class WeightsAndMode(WeightsOnly):
    """Pass on the mode too; the running statistics still miss the checkpoint."""

    def train(self, mode=True):
        for layer in self.hidden:
            layer.train(mode)
        return super().train(mode)


class WeightsAndStatistics(WeightsOnly):
    """Keep the statistics in the checkpoint; eval mode does not arrive."""

    def hold(self, layers):
        super().hold(layers)
        for k, layer in enumerate(layers):
            for name, buffer in layer.named_buffers():
                self.register_buffer(f"{name.replace('.', '_')}_{k}", buffer)


class HandedOverByHand(Net):
    """Answer ``parameters()`` by hand: nothing else finds the layers."""

    def parameters(self, recurse=True):
        yield from super().parameters(recurse)
        for layer in self.hidden:
            yield from layer.parameters()


class ACopyIsKnown(Net):
    """Make the layers twice: one set computes, the other is handed over."""

    def hold(self, layers):
        self.hidden = layers
        self.known = nn.ModuleList(stage(layer[0].in_features, 8) for layer in layers)


class ASpare(AsModuleList):
    """Hand over one layer more than the answer uses."""

    def hold(self, layers):
        super().hold(layers)
        self.spare = nn.Linear(4, 4)


class AsBuffers(AsModuleList):
    """Keep the weights of the norms as buffers: saved and moved along, but never learned."""

    def hold(self, layers):
        super().hold(layers)
        for layer in layers:
            width = layer[1].num_features
            del layer[1].weight
            layer[1].register_buffer("weight", torch.ones(width, requires_grad=True))


class HeadFrozen(AsModuleList):
    """Hand over everything, and let the head's weights need no gradient."""

    def hold(self, layers):
        super().hold(layers)
        self.head.weight.requires_grad_(False)


class OneLayerAgainAndAgain(Net):
    """Repeat one layer: a list of the same object."""

    def hold(self, layers):
        self.hidden = nn.ModuleList([layers[0], *[layers[-1]] * (len(layers) - 1)])


class ThreeAlways(Net):
    """Write the layers out for one depth."""

    def __init__(self, depth, width):
        super().__init__(3, width)

    def hold(self, layers):
        self.hidden = nn.ModuleList(layers)


class OneTooFew(AsModuleList):
    def hold(self, layers):
        super().hold(layers[:-1] if len(layers) == 5 else layers)


class WithoutRelu(AsModuleList):
    def hold(self, layers):
        super().hold([layer[:2] for layer in layers])


class ReluFirst(AsModuleList):
    def hold(self, layers):
        super().hold([nn.Sequential(layer[0], layer[2], layer[1]) for layer in layers])


class WithoutNorm(AsModuleList):
    def hold(self, layers):
        super().hold([nn.Sequential(layer[0], layer[2]) for layer in layers])


class AlwaysTraining(AsModuleList):
    """Keep batch statistics for good."""

    def train(self, mode=True):
        super().train(mode)
        for layer in self.hidden:
            layer.train(True)
        return self


class ForgetsOnSave(AsModuleList):
    """Leave the statistics out of the checkpoint, and take any."""

    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if "run" not in k}

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict(state, strict=False, assign=assign)


class OneDetached(AsModuleList):
    """Cut the graph behind the hidden layers: only the head learns."""

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x.detach())


class LastOneUnknown(Net):
    """Hand over all hidden layers but the last of a deep network."""

    def hold(self, layers):
        self.known = nn.ModuleList(layers[:4])
        self.rest = layers[4:]

    def forward(self, images):
        x = images.flatten(1)
        for layer in [*self.known, *self.rest]:
            x = layer(x)
        return self.head(x)


class ParametersMissing(AsModuleList):
    """Give the optimizer the head only; everything else works."""

    def parameters(self, recurse=True):
        yield from self.head.parameters(recurse)


RIGHT = [AsModuleList, AsSequential, AddedOneByOne, AsModuleDict]
WRONG = {
    AsBuffers: "✗✓✓✓✓✓",
    AsTuple: "✗✓✗✗✓✓",
    AsDict: "✗✓✗✗✓✓",
    LinearOnly: "✗✓✗✓✓✓",
    WeightsOnly: "✓✓✗✓✓✓",
    WeightsAndMode: "✓✓✓✗✓✓",
    WeightsAndStatistics: "✓✓✗✓✓✓",
    HandedOverByHand: "✓✓✗✗✓✓",
    ACopyIsKnown: "✗✗✗✗✓✓",
    ASpare: "✓✗✓✓✓✓",
    HeadFrozen: "✓✗✓✓✗✓",
    OneLayerAgainAndAgain: "✓✓✓✓✗✓",
    ThreeAlways: "✓✓✓✓✗✗",
    OneTooFew: "✓✓✓✓✗✗",
    WithoutRelu: "✓✓✓✓✓✗",
    ReluFirst: "✓✓✓✓✓✗",
    WithoutNorm: "✓✓✓✓✗✗",
    AlwaysTraining: "✓✓✗✓✓✓",
    ForgetsOnSave: "✓✓✓✗✓✓",
    OneDetached: "✓✗✓✓✗✓",
    LastOneUnknown: "✗✓✗✗✓✓",
    ParametersMissing: "✗✗✓✓✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_hidden_layers(run_cell(LESSON, "hunt-bug")["DeepReader"])
    assert marks(verdict) == "✗✓✗✗✓✓", verdict
    assert "with depth 1, 4 of 6 tensors are not in parameters()" in repr(verdict).replace(
        "\n    ", " "
    )


def test_the_solution_passes():
    assert check_hidden_layers(run_cell(LESSON, "hunt-solution")["WholeReader"])


@pytest.mark.parametrize("fix", RIGHT)
def test_other_right_fixes_pass(fix):
    verdict = check_hidden_layers(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_hidden_layers(fix)
    assert marks(verdict) == refused, verdict


def test_the_network_is_left_without_hooks():
    made = []

    class Kept(AsModuleList):
        def __init__(self, depth, width):
            super().__init__(depth, width)
            made.append(self)

    assert check_hidden_layers(Kept)
    assert made
    assert not any(module._forward_hooks for net in made for module in net.modules())


def test_the_random_state_of_the_caller_stays():
    before = torch.get_rng_state()
    check_hidden_layers(AsModuleList)
    assert torch.equal(before, torch.get_rng_state())
