"""Use the hooks on networks that nobody wrote for them."""

from contextlib import nullcontext
from copy import deepcopy
from functools import cache

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from labs.hooks import capture, clip_norm, edit_gradients, first_bad, grad_cam, gradient_health
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


def test_a_pattern_finds_the_layers_of_one_kind():
    model, (images,) = build("resnet18").eval(), inputs("resnet18")
    with torch.no_grad(), capture(model, "layer*.conv1", reduce=lambda m: m.std((0, 2, 3))) as maps:
        model(images)
    assert list(maps) == [
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)
    ]
    assert [maps[name].shape[0] for name in maps] == [64, 64, 128, 128, 256, 256, 512, 512]


def backward(model, name):
    torch.manual_seed(2)  # a detector samples its boxes
    out = tensors(model(*inputs(name)))
    torch.stack([part.sum() for part in out if part.requires_grad]).sum().backward()


@each_model
def test_the_gradients_of_a_part_are_clipped_and_the_rest_is_as_without_it(name):
    keys = {"fasterrcnn": "roi_heads", "lraspp": "classifier", "vit_b_16": "heads.head"}
    key = keys.get(name, "fc" if name == "resnet18" else "classifier.3")
    edited, expected = build(name), build(name)
    first = next(child for child, module in edited.named_children() if list(module.parameters()))
    with edit_gradients(edited, {key: clip_norm(0.5), first: 0.0}):
        backward(edited, name)
    backward(expected, name)
    torch.nn.utils.clip_grad_norm_(expected.get_submodule(key).parameters(), 0.5)
    frozen = {id(p) for p in edited.get_submodule(first).parameters()}
    pairs = list(zip(edited.parameters(), expected.parameters(), strict=True))
    for one, other in pairs:
        if id(one) in frozen or other.grad is None:
            assert one.grad is None
        else:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
    assert any(one.grad is not None for one, _ in pairs)


@pytest.mark.parametrize(
    ("name", "layer", "target"),
    [
        ("resnet18", "layer4.1.conv2", lambda out: out[:, 3]),
        ("mobilenet_v3_small", "features.12", lambda out: out[:, 3]),
        ("vit_b_16", "conv_proj", lambda out: out[:, 3]),
        ("lraspp", "backbone.16", lambda out: out["out"][:, 1].mean((1, 2))),
        (
            "fasterrcnn",
            "backbone.fpn.inner_blocks.0.0",
            lambda out: torch.stack([image["scores"].sum() for image in out]),
        ),
    ],
)
def test_every_kind_of_network_can_be_explained(name, layer, target, no_trace):
    model, images = build(name).eval(), inputs("resnet18")[0]
    if name == "vit_b_16":
        torch.nn.init.normal_(model.heads.head.weight)  # it starts at zero
    with no_trace(model):
        heat = grad_cam(model, images, layer, target)
    assert heat.shape == (2, 64, 64)
    assert heat.amax((1, 2)).tolist() == [1, 1]
    assert heat.min() >= 0


@each_model
def test_every_parameter_gets_a_verdict_and_none_is_missing(name):
    model = build(name)
    backward(model, name)
    report = gradient_health(model)
    assert len(report.parameters) == len(list(model.parameters()))
    assert report.missing == ()
    assert report.non_finite == ()
