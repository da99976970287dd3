"""Export networks of seven kinds, and prove them equal on sizes that the exporter never saw."""

import pytest
import torch
from torch import nn
from torchvision import models

from labs.export import check, compare_layers, parity, to_onnx
from labs.hooks.nested import tensors

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BATCH = {0: "batch"}
IMAGE = {0: "batch", 2: "height", 3: "width"}
VIDEO = {0: "batch", 2: "frames", 3: "height", 4: "width"}


def vit():
    model = models.VisionTransformer(32, 8, 2, 2, 48, 96, num_classes=7)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return model


def swin():
    return models.swin_transformer.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=7
    )


def lraspp():
    return models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )


def pyramid():
    return models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None
    )


CASES = [
    pytest.param(models.resnet18, (2, 3, 64, 64), IMAGE, (3, 3, 96, 80), id="residual"),
    pytest.param(models.shufflenet_v2_x0_5, (2, 3, 64, 64), IMAGE, (3, 3, 96, 80), id="shuffle"),
    pytest.param(vit, (2, 3, 32, 32), BATCH, (5, 3, 32, 32), id="vit"),
    pytest.param(swin, (2, 3, 64, 64), BATCH, (3, 3, 64, 64), id="shifted windows"),
    pytest.param(lraspp, (2, 3, 64, 64), IMAGE, (3, 3, 96, 80), id="segmentation, dict"),
    pytest.param(models.video.mc3_18, (2, 3, 4, 32, 32), VIDEO, (3, 3, 6, 48, 40), id="video"),
    pytest.param(pyramid, (2, 3, 64, 64), IMAGE, (3, 3, 96, 128), id="pyramid, dict of five"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "seen", "dynamic", "unseen"), CASES)
def test_parity_on_sizes_that_the_exporter_never_saw(tmp_path, build, seen, dynamic, unseen):
    torch.manual_seed(0)
    model = build().eval()
    inputs = [torch.rand(1, *seen[1:]), torch.rand(unseen)]
    with torch.no_grad():
        outputs = tensors(model(inputs[1]))
    assert all(output.std() > 1e-3 for output in outputs)  # equal zeros would prove nothing

    path = to_onnx(model, torch.rand(seen), tmp_path / "model.onnx", dynamic)

    report = check(path, dynamic=list(dynamic.values()))
    assert report.ok, report.problems
    result = parity(model, path, inputs)
    assert len(result.rows) == 2 * len(outputs)
    layers = compare_layers(model, path, inputs[1])
    assert layers.first is None
    assert len(layers.rows) >= 20
