"""What detectors with references do besides what every detector does: export, and their edges."""

import math

import pytest
import torch

from labs.export import parity, to_onnx
from labs.models import RoIFeatures, level_of
from tests.criteria import faster_rcnn, ssd
from tests.export_candidates import Candidates


@pytest.mark.parametrize("make", [ssd.ssd, faster_rcnn.faster_rcnn], ids=["SSD", "Faster R-CNN"])
def test_network_and_candidates_export_with_any_batch(tmp_path, make):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    version = make()
    network = version.network()
    if make is faster_rcnn.faster_rcnn:  # so that objectness and boxes differ from place to place
        torch.nn.init.normal_(network.proposals.objectness.weight, std=1.0)
        torch.nn.init.normal_(network.proposals.boxes.weight, std=0.3)
    model = Candidates(network, version.postprocess).eval()
    path = to_onnx(model, torch.rand(2, 3, 96, 128), tmp_path / "it.onnx", dynamic={0: "batch"})
    result = parity(model, path, [torch.rand(n, 3, 96, 128) for n in (1, 2, 5)], atol=1e-3)
    assert result.ok
    assert math.isfinite(result.worst.max_abs)
