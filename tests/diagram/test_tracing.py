"""The arrows are those of the paper, and a missing one is missed."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from labs.diagram import Part, Wiring, trace
from labs.diagram.replay import Call, Inputs
from labs.hooks import capture
from labs.models import YOLOv3
from labs.models.resnet import BasicBlock
from tests.diagram.networks import Dead, Dense, Memory, PicksRows, UNet
from tests.models import (
    DictOutput,
    InplaceAfterConv,
    NaNInThird,
    RaisesInForward,
    ResidualInplace,
    ReusedReLU,
    SharedLayer,
    WritesOverItsInput,
)

BLOCK = ["input", "conv1", "bn1", "conv2", "bn2", "output"]


def chain(*names):
    return set(pairwise(names))


def test_resnet_is_a_chain():
    net = torchvision_resnet18()
    names = ["input", "conv1", "layer1", "layer2", "layer3", "layer4", "fc", "output"]
    wiring = trace(net, torch.rand(2, 3, 64, 48), ["input", "conv1", "layer?", "fc", "output"])
    assert [part.name for part in wiring.parts] == names
    assert set(wiring.arrows) == chain(*names)
    assert wiring["layer2"] == Part("layer2", "layer2", "Sequential", ((2, 128, 8, 6),), 525_568)
    assert wiring["input"].shapes == ((2, 3, 64, 48),)
    assert wiring["output"].shapes == ((2, 1000),)


def test_a_block_has_a_shortcut():
    wiring = trace(BasicBlock(4, 4), torch.rand(2, 4, 6, 5), BLOCK)
    assert set(wiring.arrows) == chain(*BLOCK) | {("input", "output")}


def test_a_projection_is_on_the_shortcut():
    wiring = trace(BasicBlock(4, 8, 2), torch.rand(1, 4, 6, 5), [*BLOCK, "downsample"])
    around = {("input", "downsample"), ("downsample", "output")}
    assert set(wiring.arrows) == chain(*BLOCK) | around


def test_the_block_of_torchvision_uses_one_relu_twice():
    wiring = trace(torchvision_resnet18().layer1[0], torch.rand(1, 64, 6, 5), [*BLOCK, "relu"])
    expected = chain("input", "conv1", "bn1", "relu", "conv2", "bn2", "relu", "output")
    assert set(wiring.arrows) == expected | {("input", "relu")}
    assert wiring["relu"].calls == 2


def test_a_shortcut_that_is_planted_away_is_missing():
    whole, cut = (BasicBlock(4, 4, shortcut=kind) for kind in ("project", "none"))
    arrows = [set(trace(net, torch.rand(1, 4, 6, 5), BLOCK).arrows) for net in (whole, cut)]
    assert arrows[0] - arrows[1] == {("input", "output")}
    assert arrows[1] <= arrows[0]


def test_a_branch_that_starts_at_zero_has_its_arrow():
    block = BasicBlock(4, 4)
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.conv1.weight)
    assert set(trace(block, torch.rand(1, 4, 6, 5), BLOCK).arrows) == chain(*BLOCK) | {
        ("input", "output")
    }


def test_a_pyramid_has_lateral_and_downward_arrows():
    net = YOLOv3(2, width=0.125, depths=(1, 1, 1), strides=(2, 4, 8))
    stages, mixes = ([f"{kind}.{i}" for i in range(3)] for kind in ("backbone.stages", "neck.mix"))
    heads, leads = [f"head.{i}" for i in range(3)], ["neck.lead.0", "neck.lead.1"]
    ends = [f"output[{i}]" for i in range(3)]
    wiring = trace(net, torch.rand(1, 3, 32, 40), ["input", *stages, *mixes, *leads, *heads, *ends])
    lateral = {*zip(stages, mixes, strict=True), *zip(mixes, heads, strict=True)}
    down = chain("neck.mix.2", "neck.lead.1", "neck.mix.1", "neck.lead.0", "neck.mix.0")
    assert set(wiring.arrows) == (
        chain("input", *stages) | lateral | down | set(zip(heads, ends, strict=True))
    )


def test_the_pyramid_of_torchvision_adds_from_above():
    net = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    parts = {f"C{i + 2}": f"body.layer{i + 1}" for i in range(4)}
    parts |= {f"in{i + 2}": f"fpn.inner_blocks.{i}" for i in range(4)}
    parts |= {f"P{i + 2}": f"output['{i}']" for i in range(4)}
    arrows = set(trace(net, torch.rand(1, 3, 64, 64), parts).arrows)
    assert {("C2", "in2"), ("C5", "in5"), ("in5", "P5"), ("in5", "P2"), ("in2", "P2")} <= arrows
    assert not {("in2", "P3"), ("in2", "P5"), ("C2", "P2"), ("C2", "in3")} & arrows


def test_an_encoder_and_decoder_with_skips():
    parts = ["input", "enc1", "enc2", "middle", "dec2", "dec1", "out", "output"]
    image = torch.rand(1, 3, 8, 12)
    wiring = trace(UNet(), image, parts)
    skips = {("enc1", "dec1"), ("enc2", "dec2")}
    assert set(wiring.arrows) == chain(*parts) | skips
    cut = trace(UNet(skips=1), image, parts)
    assert set(wiring.arrows) - set(cut.arrows) == {("enc1", "dec1")}


@pytest.mark.parametrize("by_name", [False, True])
def test_cross_attention_reads_the_memory(by_name):
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    queries, memory = torch.rand(1, 3, 8), torch.rand(1, 5, 8)
    parts = {"self": "self_attn", "cross": "multihead_attn", "linear": "linear1"}
    ends = ["input[0]", "input['memory']" if by_name else "input[1]"]
    parts |= dict(zip(("queries", "memory"), ends, strict=True))
    example = queries if by_name else (queries, memory)
    kwargs = {"memory": memory} if by_name else None
    wiring = trace(layer, example, parts, kwargs)
    assert set(wiring.arrows) == {
        *chain("queries", "self", "cross", "linear"),
        *{("queries", "cross"), ("queries", "linear"), ("self", "linear"), ("memory", "cross")},
    }
    assert wiring["memory"].shapes == ((1, 5, 8),)


def test_attention_is_seen_though_pytorch_has_a_faster_way():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    wiring = trace(layer, torch.rand(1, 3, 8), ["input", "self_attn", "linear2", "output"])
    assert ("self_attn", "output") in wiring.arrows
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_what_is_multiplied_by_zero_or_unused_feeds_nothing():
    parts = ["input", "stem", "dead", "unused", "head", "output"]
    wiring = trace(Dead(), torch.rand(2, 4), parts)
    expected = {("stem", "dead"), ("stem", "unused"), *chain("input", "stem", "head", "output")}
    assert set(wiring.arrows) == expected


def test_a_dense_block_feeds_everything_after_it():
    parts = ["input", "0", "1", "2", "3"]
    wiring = trace(Dense(), torch.rand(1, 4), [*parts, "output"])
    forward = [(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]]
    assert wiring.arrows == (*forward, ("3", "output"))


def test_arguments_by_name_in_tuples_and_dicts():
    parts = ["input[0]", "input[1]", "first", "second", "read", "output['found']"]
    wiring = trace(Memory(), (torch.rand(1, 4), torch.rand(1, 4)), [*parts, "output['left']"])
    assert set(wiring.arrows) == {
        *{("input[0]", "first"), ("input[0]", "read"), ("input[1]", "second")},
        *{("first", "read"), ("second", "read"), ("read", "output['found']")},
        ("input[1]", "output['left']"),
    }


def test_integers_and_truth_values_are_changed_too():
    parts = ["score", "rank", "mask", "pick", "output[0]", "output[1]"]
    wiring = trace(PicksRows(), torch.rand(9, 4), parts)
    found = {("score", "rank"), ("rank", "pick"), ("pick", "output[0]"), ("mask", "output[1]")}
    assert set(wiring.arrows) == found


def test_a_layer_that_runs_twice_is_one_part():
    wiring = trace(ReusedReLU(), torch.rand(5, 3), ["first", "relu", "second", "output"])
    expected = chain("first", "relu", "second", "relu", "output")
    assert set(wiring.arrows) == expected
    assert wiring["relu"].calls == 2
    assert wiring["relu"].shapes == ((5, 4), (5, 2))


def test_a_layer_that_feeds_itself():
    wiring = trace(SharedLayer(), torch.rand(5, 3), ["input", "left", "output"])
    assert set(wiring.arrows) == chain("input", "left", "left", "output")


def test_layers_that_write_over_their_input():
    wiring = trace(InplaceAfterConv(), torch.rand(1, 1, 8, 8), ["input", "0", "1", "2", "output"])
    assert set(wiring.arrows) == chain("input", "0", "1", "2", "output")
    example = torch.rand(1, 2, 6, 6)
    kept = example.clone()
    wiring = trace(ResidualInplace(), example, ["input", "branch", "relu", "output"])
    assert set(wiring.arrows) == chain("input", "branch", "relu", "output") | {("input", "relu")}
    trace(WritesOverItsInput(), example[:, :1], ["input", "conv"])
    torch.testing.assert_close(example, kept, rtol=0, atol=0)


class UsesWhatAnInPlaceLayerLeft(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(4, 4)

    def forward(self, x):
        x = x + 0
        self.relu(x)  # what it returns is thrown away
        return self.last(x)


def test_what_was_overwritten_is_held_where_it_was_written():
    wiring = trace(UsesWhatAnInPlaceLayerLeft(), torch.randn(5, 4), ["input", "relu", "last"])
    assert set(wiring.arrows) == chain("input", "relu", "last")


class UsesItAgainAfterAnIdentity(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.same, self.last = nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        self.same(x)
        return self.last(x)


def test_an_identity_does_not_write_over_its_input():
    wiring = trace(UsesItAgainAfterAnIdentity(), torch.rand(5, 4), ["first", "same", "last"])
    assert set(wiring.arrows) == {("first", "same"), ("first", "last")}


def test_outputs_in_a_dict():
    wiring = trace(DictOutput(), torch.rand(2, 3), ["0", "1", "output['aux'][0]", "output['out']"])
    assert set(wiring.arrows) == {("0", "1"), ("1", "output['aux'][0]"), ("1", "output['out']")}
    assert wiring["1"].shapes == ((2, 4), (2, 4))


def test_the_model_itself_can_be_a_part():
    wiring = trace(nn.Linear(3, 2), torch.rand(1, 3), {"in": "input", "net": "", "out": "output"})
    assert set(wiring.arrows) == chain("in", "net", "out")


def test_a_list_of_images_is_one_argument():
    class Stacks(nn.Sequential):
        def forward(self, images):
            return super().forward(torch.stack(images))

    net = Stacks(nn.Conv2d(1, 2, 3))
    wiring = trace(net, [torch.rand(1, 5, 5), torch.rand(1, 5, 5)], ["input[0]", "input[1]", "0"])
    assert set(wiring.arrows) == {("input[0]", "0"), ("input[1]", "0")}


def test_nothing_of_the_model_changes():
    model = UNet().train()
    model.enc2.eval()
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    model(image).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with capture(model, "enc1") as maps:
        trace(model, image, ["input", "enc?", "output"], pictures=True)
    assert len(maps) == 0  # the hooks of others do not see the copy
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(map(torch.equal, [p.grad for p in model.parameters()], gradients))
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002
    with torch.inference_mode():
        again = trace(model, torch.rand(2, 3, 8, 8), ["input", "enc?", "output"])
    assert again == trace(model, torch.rand(2, 3, 8, 8), ["input", "enc?", "output"])


def test_pictures_are_those_of_the_weights_as_they_are():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.0, 5.0]).view(2, 1, 1, 1))
    image = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    wiring = trace(net, image, ["input", "0", "output"], pictures=True)
    seen = wiring["0"].picture
    assert seen.shape == (8, 8)
    assert torch.corrcoef(torch.stack([seen.flatten(), image.flatten()]))[0, 1] > 0.99
    assert trace(net, image, ["0"])["0"].picture is None


def test_the_table_and_the_words():
    wiring = trace(BasicBlock(4, 4), torch.rand(1, 4, 6, 5), {"x": "input", "first": "conv1"})
    table = wiring.table()
    assert list(table.columns) == ["part", "layer", "kind", "shape", "parameters", "feeds"]
    assert list(table.loc[0]) == ["x", "input", "input", (1, 4, 6, 5), 0, "first"]
    assert list(table.loc[1]) == ["first", "conv1", "Conv2d", (1, 4, 6, 5), 144, ""]
    assert repr(wiring) == "Wiring(2 parts; x → first)"
    assert repr(Wiring(wiring.parts, ())) == "Wiring(2 parts; no arrows)"
    with pytest.raises(KeyError, match="no part 'second' in the wiring; there are x, first"):
        wiring["second"]


class NeverRuns(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


class Constant(nn.Sequential):
    def forward(self, x):
        return self[0](x), torch.tensor([3])


class NeedsEight(nn.Module):
    def __init__(self):
        super().__init__()
        self.count, self.last = nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(x).reshape(int((self.count(x) == x.relu()).all()), -1)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.runs, self.last = 0, nn.Linear(3, 3)

    def forward(self, x):
        self.runs += 1
        return self.last(x + self.runs)


class DrawsAtRandomInEvalMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(x)[torch.randperm(len(x))])


def test_luck_is_the_same_in_every_run():
    net = DrawsAtRandomInEvalMode()
    wiring = trace(net, torch.rand(8, 3), ["input", "first", "last", "output"])
    assert set(wiring.arrows) == chain("input", "first", "last", "output")


IMAGE = torch.rand(1, 3)


@pytest.mark.parametrize(
    ("model", "parts", "kind", "words"),
    [
        (BasicBlock(3, 3), ["conv3"], KeyError, "'conv3' not found; did you mean 'conv"),
        (BasicBlock(3, 3), "conv1", TypeError, "expected a list of parts, got the string 'conv1'"),
        (BasicBlock(3, 3), [], ValueError, "expected at least one part, got none"),
        (nn.Linear, ["input"], TypeError, "expected an nn.Module, got the class Linear"),
        (NeverRuns(), ["input", "spare"], ValueError, r"'spare' \(layer 'spare'\) did not run"),
        (SharedLayer(), ["left", "right"], ValueError, "'left' and 'right' are one layer"),
        (UNet(), ["enc1.0", "enc1"], ValueError, "do not contain each other, got 'enc1.0' and"),
        (UNet(), ["enc1", "enc1.0"], ValueError, "do not contain each other, got 'enc1' and"),
        (NeverRuns(), ["input", "input[0]"], ValueError, "got 'input' and 'input\\[0\\]'"),
        (UNet(), {"encoder": "enc?"}, ValueError, "one layer for part 'encoder', got 'enc\\?', wh"),
        (NeverRuns(), ["used", 3], TypeError, "expected the name of a layer, got a int"),
        (
            nn.Sequential(nn.Linear(3, 3)).append(nn.ReLU()),
            {"end": "output[1]"},
            KeyError,
            "part 'end': no tensor at 'output\\[1\\]'.*there are output",
        ),
        (Constant(nn.Linear(3, 3)), ["0", "output[2]"], KeyError, "there are output\\[0\\], outp"),
        (Counts(), ["input", "last"], RuntimeError, "two equal runs gave part 'last' different"),
        (NeedsEight(), ["count", "last"], RuntimeError, "failed when the output of part 'count'"),
        (RaisesInForward(), ["input"], RuntimeError, "on purpose|expected|size"),
    ],
)
def test_errors_say_what_was_expected(model, parts, kind, words):
    with pytest.raises(kind, match=words):
        trace(model, IMAGE, parts)


def test_a_model_with_a_layer_called_output_can_be_wrapped():
    class HasOutput(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x):
            return self.output(x)

    with pytest.raises(ValueError, match="has a layer of that name; trace nn"):
        trace(HasOutput(), IMAGE, ["output"])
    wiring = trace(HasOutput(), IMAGE, ["input", "output.0"])
    assert set(wiring.arrows) == {("input", "output.0")}
    wiring = trace(nn.Sequential(HasOutput()), IMAGE, ["0.output", "output"])
    assert set(wiring.arrows) == {("0.output", "output")}


def test_nan_is_named():
    with pytest.raises(ValueError, match="part 'third' holds NaN"):
        trace(NaNInThird(), torch.rand(2, 3), ["third", "fourth"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_arrows_are_the_same():
    parts, image = ["input", "enc1", "enc2", "middle", "dec2", "dec1"], torch.rand(1, 3, 16, 16)
    model = UNet()
    found = trace(model, image, parts)
    assert trace(model.cuda(), image.cuda(), parts, pictures=True) == found


@pytest.mark.parametrize("kind", [Part, Wiring, Call, Inputs])
def test_results_are_frozen(kind):
    assert kind.__dataclass_params__.frozen


@pytest.mark.parametrize("kind", [Call, Inputs])
def test_what_holds_tensors_is_not_compared(kind):
    """Two tensors that are compared give a tensor, which is neither true nor false."""
    assert kind(torch.ones(2), {}) != kind(torch.ones(2), {})
