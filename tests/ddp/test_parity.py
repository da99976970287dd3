import pytest
import torch

from labs.ddp import gradient_parity
from labs.train import cross_entropy
from tests.ddp import networks, sharing
from tests.models import DrawsNoise, FrozenBackbone, TwoConvs, UnusedBranch


def images(n, size=32, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, size, size, generator=generator), torch.arange(n) % 2


@pytest.mark.parametrize("make_model", [networks.small_mobilenet, networks.frozen_resnet])
def test_torchvision_networks_have_the_gradients_of_one_process(make_model):
    parity = gradient_parity(make_model, cross_entropy, images(6))
    assert parity.max_abs_diff <= 1e-6
    assert parity.worst.max_abs_diff == parity.table()["max_abs_diff"].max()
    assert parity.table()["max_abs"].max() > 0.01
    assert list(parity.table()["parameter"]) == [n for n, _ in make_model().named_parameters()]


def test_an_uneven_split_is_weighted():
    parity = gradient_parity(TwoConvs, cross_entropy, images(5, 8, 1), world_size=3)
    assert parity.max_abs_diff <= 1e-6
    assert parity.notes == ()
    assert repr(parity).startswith("GradientParity(3 ranks, 4 parameters, max_abs_diff ")


def test_batch_statistics_break_it_and_are_named():
    parity = gradient_parity(DrawsNoise, cross_entropy, images(4, 8, 1))
    assert parity.max_abs_diff > 1e-3
    assert "1 batch norms in train mode" in repr(parity)
    assert "1 dropouts" in repr(parity)


def test_frozen_parts_are_left_out():
    parity = gradient_parity(FrozenBackbone, cross_entropy, images(4, 8, 1))
    assert parity.max_abs_diff <= 1e-6
    assert set(parity.table()["parameter"]) == {"head.weight", "head.bias"}


def test_a_parameter_without_gradient_is_named():
    batch = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"no gradient for unused\.weight, unused\.bias"):
        gradient_parity(UnusedBranch, cross_entropy, batch)
    parity = gradient_parity(UnusedBranch, cross_entropy, batch, find_unused_parameters=True)
    assert parity.max_abs_diff <= 1e-6


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param(images(1, 8, 1), "a sample for each of 2 ranks, got 1", id="too small"),
        pytest.param((torch.rand(4, 3), torch.rand(3)), "tensors with 4 samples", id="ragged"),
        pytest.param({"name": "cat"}, "no tensor", id="no tensor"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        gradient_parity(TwoConvs, cross_entropy, batch)


def test_a_loss_that_asks_the_ranks_is_put_to_the_test():
    batch = images(6, 8, 1)[0], torch.tensor([1.0, 0.0, 4.0, 2.0, 1.0, 5.0])
    parity = gradient_parity(TwoConvs, sharing.per_object, batch)
    assert parity.max_abs_diff <= 1e-6 < 1e-3 < parity.worst.max_abs


def test_it_leaves_no_trace_in_this_process_and_is_refused_in_a_group(tmp_path):
    batch = torch.rand(4, 3), torch.arange(4)
    before = torch.get_rng_state()
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(ValueError, match="a parameter that requires a gradient, got none"):
        gradient_parity(torch.nn.ReLU, cross_entropy, batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert tf32 == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="outside of a process group, because it starts its"):
            gradient_parity(TwoConvs, cross_entropy, images(4, 8, 1))
    finally:
        torch.distributed.destroy_process_group()
