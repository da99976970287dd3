"""Use the hooks on networks that nobody wrote for them."""

from contextlib import nullcontext
from copy import deepcopy
from functools import cache

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from labs.hooks import capture, first_bad, gradient_health
from labs.hooks.nested import tensors

MODELS = torchvision.models
TARGET = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])}


def build(name):
    return deepcopy(original(name))


@cache
def original(name):
    torch.manual_seed(0)
    if name == "fasterrcnn":
        return MODELS.detection.fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
        )
    if name == "lraspp":
        return MODELS.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=3
        )
    if name == "vit_b_16":
        return MODELS.vit_b_16(weights=None, image_size=64)
    return getattr(MODELS, name)(weights=None)


def inputs(name):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    if name == "fasterrcnn":
        return (list(images), [dict(TARGET), dict(TARGET)])
    return (images,)


NAMES = ["resnet18", "mobilenet_v3_small", "vit_b_16", "fasterrcnn", "lraspp"]
each_model = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer1", "layer2.0.downsample", "layer4.1"]),
        ("mobilenet_v3_small", ["features.3", "features.12", "classifier"]),
        ("vit_b_16", ["conv_proj", "encoder.layers.encoder_layer_7.mlp", "heads.head"]),
    ],
)
def test_maps_equal_those_of_a_traced_feature_extractor(name, layers):
    model, (images,) = build(name).eval(), inputs(name)
    with torch.no_grad():
        expected = create_feature_extractor(model, layers)(images)
        with capture(model, *layers) as maps:
            model(images)
    for layer in layers:
        torch.testing.assert_close(maps[layer], expected[layer], rtol=0, atol=0)


@each_model
def test_watching_every_layer_changes_neither_outputs_nor_gradients(name):
    def run(model, watch):
        with watch as maps:
            torch.manual_seed(2)
            out = tensors(model(*inputs(name)))
            torch.stack([part.sum() for part in out if part.requires_grad]).sum().backward()
        return maps, [*out, *[p.grad for p in model.parameters()], *model.buffers()]

    watched = build(name)
    layers = [layer for layer, _ in watched.named_modules()]
    maps, found = run(watched, capture(watched, *layers, gradients=True))
    _, expected = run(build(name), nullcontext())
    for one, other in zip(found, expected, strict=True):
        assert one is other is None or torch.equal(one, other)
    assert len(maps) > 50
    assert all(tensor.grad_fn is None for layer in maps for tensor in tensors(maps.calls(layer)))


def test_the_structures_of_a_detector_are_kept():
    model = build("fasterrcnn").eval()
    with capture(model, "transform", "backbone", "rpn", "roi_heads.box_predictor", "") as maps:
        model(list(inputs("resnet18")[0]))
    images, targets = maps["transform"]
    assert images.tensors.shape == (2, 3, 64, 64)
    assert images.image_sizes == [(64, 64), (64, 64)]
    assert targets is None
    assert list(maps["backbone"]) == ["0", "1", "pool"]
    proposals, losses = maps["rpn"]
    assert [p.shape[1] for p in proposals] == [4, 4]
    assert losses == {}
    assert maps["roi_heads.box_predictor"][0].shape[1] == 3
    assert maps[""][0].keys() == {"boxes", "labels", "scores"}


@each_model
def test_a_healthy_network_has_no_culprit_and_keeps_no_trace(name, no_trace):
    model, batch = build(name), inputs(name)
    with no_trace(model):
        assert first_bad(model, *batch) is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer3.0.conv2"),
        ("mobilenet_v3_small", "features.4.block.2.fc1"),
        ("vit_b_16", "encoder.layers.encoder_layer_5.mlp.0"),
        ("fasterrcnn", "backbone.fpn.layer_blocks.0.0"),
        ("lraspp", "classifier.cbr.0"),
    ],
)
def test_a_poisoned_weight_is_found_in_the_layer_that_holds_it(name, layer, no_trace):
    model, batch = build(name), inputs(name)
    with torch.no_grad():
        model.get_submodule(layer).weight.view(-1)[5] = float("inf")
    with no_trace(model):
        culprit = first_bad(model, *batch)
    assert (culprit.name, culprit.kind) == (layer, "output")


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer2.1.conv1"), ("vit_b_16", "encoder.layers.encoder_layer_2.ln_1")],
)
def test_a_gradient_that_overflows_is_found_where_it_does(name, layer):
    class Overflows(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    model = build(name)
    torch.nn.init.ones_(list(model.modules())[-1].weight)  # the head of the ViT starts at zero
    model.get_submodule(layer).register_forward_hook(lambda m, args, out: Overflows.apply(out))
    culprit = first_bad(model, *inputs(name), loss=lambda out: out[:, 0].sum())
    assert (culprit.name, culprit.kind) == (layer, "gradient")


def test_a_frozen_detector_backbone_is_frozen_and_not_missing():
    model = build("fasterrcnn")
    losses = model(*inputs("fasterrcnn"))
    sum(losses.values()).backward()
    report = gradient_health(model)
    assert len(report.frozen) == sum(not p.requires_grad for p in model.parameters())
    assert set(report.missing) | set(report.frozen) < {n for n, _ in model.named_parameters()}
    assert report.non_finite == ()
