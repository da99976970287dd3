"""What networks of tokens do besides what every network does: export with any batch."""

import math

import pytest
import torch
from torch import nn

from labs.export import parity, to_onnx
from labs.models import ViT
from tests.criteria import deformable_detr, detr
from tests.export_candidates import Candidates

SETS = {
    "DETR": (detr.detr, (96, 128)),
    "DETR, square": (detr.detr, (64, 64)),
    "Deformable DETR": (deformable_detr.deformable_detr, (64, 64)),
    "Deformable DETR, two stages": (lambda: deformable_detr.deformable_detr(True, True), (96, 128)),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_boxes_exports_with_any_batch(tmp_path, name):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    make, size = SETS[name]
    version = make()
    network = version.network()
    for part, weight in network.named_parameters():  # so that places and boxes differ
        if "sampling_offsets.weight" in part or ".boxes." in part or part.startswith("boxes"):
            nn.init.normal_(weight, std=0.3)
    model = Candidates(network, version.postprocess).eval()
    path = to_onnx(model, torch.rand(2, 3, *size), tmp_path / "it.onnx", dynamic={0: "batch"})
    result = parity(model, path, [torch.rand(n, 3, *size) for n in (1, 2, 5)], atol=1e-3)
    assert result.ok
    assert math.isfinite(result.worst.max_abs)


@pytest.mark.parametrize("size", [(32, 32), (16, 48)], ids=str)
def test_a_vit_exports_with_any_batch_also_where_codes_are_interpolated(tmp_path, size):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = ViT(32, 8, 32, 2, 4, 64, 5).eval()
    nn.init.normal_(network.head.weight)
    path = to_onnx(network, torch.rand(2, 3, *size), tmp_path / "it.onnx", dynamic={0: "batch"})
    result = parity(network, path, [torch.rand(n, 3, *size) for n in (1, 2, 5)], atol=1e-3)
    assert result.ok
