"""Compare files with models, and name the layer in which they part."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from labs.export import ParityError, compare_layers, onnx_file, parity, to_onnx
from labs.export.layers import _difference
from labs.export.parity import _error
from tests.models import BranchesOnSize, ThreeBlocks, TwoInputs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

BATCH = {0: "batch"}


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(1, 1, 16, 16, generator=draw), torch.rand(5, 1, 20, 24, generator=draw)]


def test_an_export_equals_its_model(exported, inputs):
    result = parity(*exported, inputs)
    assert result.ok
    assert len(result.table()) == 2
    assert result.worst.max_abs < 1e-5
    assert "ok: 2 inputs" in repr(result)


def test_it_names_the_third_block_when_its_scale_differs(exported, inputs):
    other = deepcopy(exported[0])
    other.blocks[2].scale = 1.01
    with pytest.raises(
        ParityError, match=r"first layer that differs is 'blocks\.2'.*after 'blocks\.2\.relu'"
    ):
        parity(other, exported[1], inputs)


@pytest.mark.parametrize("change", ["eps", "weight"])
def test_it_names_the_norm_of_the_third_block(exported, inputs, change):
    other = deepcopy(exported[0])
    if change == "eps":
        other.blocks[2].norm.eps = 0.1
    else:
        with torch.no_grad():
            other.blocks[2].norm.weight.mul_(1.01)
    with pytest.raises(
        ParityError, match=r"'linear'.*first layer that differs is 'blocks\.2\.norm'"
    ):
        parity(other, exported[1], inputs)


def test_it_names_the_third_block_when_the_file_differs(exported, path, inputs):
    model = onnx_file.read(path)
    weight = next(w for w in model.graph.initializer if w.name == "blocks.2.conv.weight")
    weight.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.02, weight.name)
    )
    onnx_file.write(model, path)
    with pytest.raises(ParityError, match=r"first layer that differs is 'blocks\.2\.norm'"):
        parity(exported[0], path, inputs)


def test_it_finds_the_first_of_two_faults(exported, inputs):
    other = deepcopy(exported[0])
    other.blocks[1].norm.eps, other.blocks[2].norm.eps = 0.01, 0.9
    assert compare_layers(other, exported[1], inputs[1]).first.layer == "blocks.1.norm"


def test_layers_agree_to_rounding_and_fused_ones_are_listed(exported, inputs):
    layers = compare_layers(*exported, inputs[1])
    assert layers.first is None
    assert layers.last_equal is None
    assert layers.table()["relative"].max() < 1e-5
    assert layers.hidden == ("blocks.0.conv", "blocks.1.conv", "blocks.2.conv")
    assert [row.layer for row in layers.rows][-3:] == ["blocks", "head", ""]


def test_it_finds_what_the_exporter_baked_in(tmp_path):
    path = to_onnx(BranchesOnSize().eval(), torch.rand(2, 4), tmp_path / "m.onnx", BATCH)
    assert parity(BranchesOnSize().eval(), path, [torch.rand(4, 4)]).ok
    with pytest.raises(ParityError, match=r"inputs\[1\] \[3, 4\] differs"):
        parity(BranchesOnSize().eval(), path, [torch.rand(2, 4), torch.rand(3, 4)])


def test_several_inputs_and_whole_numbers_are_compared(tmp_path):
    example = torch.rand(2, 3), torch.rand(2, 2)
    path = to_onnx(
        TwoInputs().eval(), example, tmp_path / "m.onnx", BATCH, outputs=["sum", "count"]
    )
    result = parity(TwoInputs().eval(), path, [(torch.rand(4, 3), torch.rand(4, 2))])
    assert [row.output for row in result.rows] == ["sum", "count"]

    class CountsDifferently(TwoInputs):
        def forward(self, left, right):
            total, count = super().forward(left, right)
            return total, count + 1000 * (left > 2).sum(1) + 1

    with pytest.raises(ParityError, match=r"output 'count' .* differs by up to 1;"):
        parity(CountsDifferently().eval(), path, [(torch.rand(4, 3), torch.rand(4, 2))], rtol=10)


def test_nan_in_one_place_only_differs(tmp_path):
    path = to_onnx(nn.ReLU().eval(), torch.rand(2, 4), tmp_path / "m.onnx", BATCH)
    x = torch.tensor([[1.0, float("inf"), -1.0, 2.0]])
    assert parity(nn.ReLU().eval(), path, [x]).worst.max_abs == 0

    class BreaksOne(nn.ReLU):
        def forward(self, x):
            return torch.where(x == 2, torch.nan, super().forward(x))

    with pytest.raises(ParityError, match="differs by up to inf"):
        parity(BreaksOne().eval(), path, [x])


def test_it_says_when_the_file_refuses_a_size(exported, inputs):
    with pytest.raises(
        ParityError, match=r"does not run with inputs\[0\] of shape \[2, 3, 16, 16\]"
    ):
        parity(InAnyColour(exported[0]).eval(), exported[1], [torch.rand(2, 3, 16, 16)])


def test_whole_numbers_are_compared_beyond_what_float32_can_count():
    even, odd = torch.tensor([2**24]), torch.tensor([2**24 + 1])
    for ours, theirs in ((even, odd), (odd, even), (odd, odd)):
        differ = 0.0 if ours is theirs else 1.0
        assert _error(0, "ids", ours, theirs, 1e-3, 1e-5).max_abs == differ
        assert _difference("layer", 0, ours, theirs).max_abs == differ


class InAnyColour(nn.Module):
    """Take the first channel only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x[:, :1])


def test_it_leaves_no_trace(exported, inputs, capfd):
    before = [tensor.clone() for tensor in exported[0].state_dict().values()]
    parity(*exported, inputs)
    assert capfd.readouterr() == ("", "")
    after = exported[0].state_dict().values()
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_it_refuses_what_cannot_be_compared(exported, inputs):
    with pytest.raises(TypeError, match="expected a list of inputs, got a Tensor"):
        parity(*exported, inputs[0])
    with pytest.raises(ValueError, match="at least one input"):
        parity(*exported, [])
    with pytest.raises(ValueError, match=r"parity: expected every module in eval mode"):
        parity(ThreeBlocks().train(), exported[1], inputs)


def test_a_file_without_layer_names_is_refused(exported, path, inputs):
    model = onnx_file.read(path)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx_file.write(model, path)
    with pytest.raises(ValueError, match=r"no node of .* names its layer"):
        compare_layers(exported[0], path, inputs[0])
