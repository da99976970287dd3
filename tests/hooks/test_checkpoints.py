"""Look into models whose activations are checkpointed, so that parts of them run twice."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint, checkpoint_sequential

from labs.hooks import capture, edit_gradients, first_bad, gradient_health
from labs.hooks.apart import buffers_apart, checkpoints_off
from tests.models import Returns

BOTH = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])


class Checkpointed(nn.Module):
    """Run its middle under a checkpoint."""

    def __init__(self, reentrant, *middle):
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.middle, self.head = nn.Linear(3, 3), nn.Sequential(*middle), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(checkpoint(self.middle, self.stem(x), use_reentrant=self.reentrant))


def x(rows=4):
    return torch.rand(rows, 3, generator=torch.Generator().manual_seed(0))


@BOTH
def test_a_healthy_one_has_no_culprit_and_no_trace_in_statistics_or_noise(reentrant, no_trace):
    middle = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.ReLU(inplace=True)
    model = Checkpointed(reentrant, *middle)
    with no_trace(model):
        assert first_bad(model, x()) is None
    assert model.middle[1].num_batches_tracked == 0
    assert "apply" not in vars(CheckpointFunction)


@BOTH
def test_the_layer_inside_is_named_by_its_output(reentrant):
    model = Checkpointed(reentrant, nn.Linear(3, 3), Returns(lambda x: x / 0), nn.ReLU())
    culprit = first_bad(model, x())
    assert (culprit.name, culprit.kind, culprit.call) == ("middle.1", "output", 0)


@BOTH
def test_the_layer_inside_is_named_by_its_gradient(reentrant):
    model = Checkpointed(reentrant, nn.Linear(3, 3, bias=False), Returns(lambda x: x.abs().sqrt()))
    nn.init.zeros_(model.middle[0].weight)
    culprit = first_bad(model, x())
    assert (culprit.name, culprit.kind) == ("middle.1", "gradient")
    assert culprit.tensor == "output of 'middle.0'"


def test_a_parameter_that_a_checkpoint_cuts_off_gets_no_gradient_here_either():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), Returns(lambda x: x.abs().sqrt()))
    nn.init.zeros_(model[0].weight)
    cut = Returns(lambda x: checkpoint(model, x, use_reentrant=True))
    cut.model = model
    assert first_bad(cut, x()) is None  # no input requires a gradient, so none flows
    assert first_bad(cut, x().requires_grad_()).name == "model.1"


@BOTH
def test_a_sequence_in_segments_is_followed(reentrant):
    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    model = Returns(lambda x: checkpoint_sequential(layers, 2, x, use_reentrant=reentrant))
    model.layers = layers
    assert first_bad(model, x().requires_grad_()) is None
    nn.init.constant_(layers[2].bias, float("inf"))
    assert first_bad(model, x().requires_grad_()).name == "layers.2"


@BOTH
def test_a_checkpoint_trains_on_as_before_afterwards(reentrant):
    model = Checkpointed(reentrant, nn.Linear(3, 3), nn.Tanh())
    pending = model(x()).sum()
    first_bad(model, x())
    pending.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x()).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


@BOTH
def test_capture_changes_nothing_even_with_a_reduction_that_has_weights(reentrant):
    model = Checkpointed(reentrant, nn.Linear(3, 3), nn.Tanh())
    probe = nn.Linear(3, 1)
    model(x()).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with capture(model, "middle.0", "middle", gradients=True, reduce=probe) as maps:
        model(x()).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    assert probe.weight.grad is None
    assert not any(kept.requires_grad for kept in maps.calls("middle.0"))


@BOTH
def test_gradients_inside_are_captured_edited_and_judged(reentrant):
    model, plain = (Checkpointed(kind, nn.Linear(3, 3), nn.Tanh()) for kind in (reentrant, None))
    plain.load_state_dict(model.state_dict())
    plain.forward = lambda x: plain.head(plain.middle(plain.stem(x)))
    found, reports = [], []
    for net in (model, plain):
        with capture(net, "middle.0", gradients=True) as maps, edit_gradients(net, {"middle": 0.5}):
            net(x()).sum().backward()
        gradient = maps.gradient("middle.0")  # where it runs twice, one of the two calls has it
        arrived = gradient if isinstance(gradient, list) else [gradient]
        found.append([one for one in arrived if one is not None])
        reports.append(gradient_health(net))
    torch.testing.assert_close(*found)
    assert reports[0].table()["grad_norm"].tolist() == pytest.approx(
        reports[1].table()["grad_norm"].tolist()
    )


def test_buffers_come_back_after_an_error():
    norm = nn.BatchNorm1d(3)
    model, before = nn.Sequential(norm, norm), norm.running_mean
    stumble = nn.Sequential(model, Returns(lambda x: 1 // 0))
    with pytest.raises(ZeroDivisionError), buffers_apart(model), checkpoints_off():
        stumble(x())
    assert norm.running_mean is before
    assert before.eq(0).all()
    assert "apply" not in vars(CheckpointFunction)
    with checkpoints_off(), checkpoints_off():
        pass
    assert "apply" not in vars(CheckpointFunction)
