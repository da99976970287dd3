import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from torch import nn

from labs.hooks import grad_cam
from tests.models import (
    DrawsNoise,
    FrozenBackbone,
    InplaceAfterConv,
    RaisesInForward,
    Returns,
    TupleOutput,
    TwoConvs,
    UnusedBranch,
    WritesOverItsInput,
)

REFERENCES = [
    ("resnet18", "layer4"),
    ("resnet18", "layer2.0.conv1"),
    ("mobilenet_v3_small", "features.8"),
]


def first_class(logits):
    return logits[:, 0]


def photos(n=2):
    return torch.rand(n, 3, 96, 160, generator=torch.Generator().manual_seed(1))


def network(name):
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None).eval()


def stretched(heat):
    """Scale each map so that its minimum is 0 and its maximum 1."""
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / (high - low)


@pytest.mark.parametrize(("name", "layer"), REFERENCES)
def test_it_equals_captum_scaled_by_its_maximum(name, layer):
    model, images = network(name), photos()
    raw = LayerGradCam(model, model.get_submodule(layer)).attribute(
        images, target=3, relu_attributions=True
    )
    raw = nn.functional.interpolate(raw, (96, 160), mode="bilinear")[:, 0].detach()
    assert raw.amax((1, 2)).min() > 0
    heat = grad_cam(model, images, layer, lambda logits: logits[:, 3])
    torch.testing.assert_close(heat, raw / raw.amax((1, 2), keepdim=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), REFERENCES)
def test_it_equals_pytorch_grad_cam_which_also_subtracts_the_minimum(name, layer):
    model, images = network(name), photos()
    heat = grad_cam(model, images, layer, lambda logits: logits[:, 3])
    # They divide by (1e-7 + maximum), which dims weak evidence. A large score does not change
    # Grad-CAM, but makes that 1e-7 vanish.
    with GradCAM(model, [model.get_submodule(layer)]) as reference:
        theirs = torch.from_numpy(reference(images, [lambda logits: 1e6 * logits[3]] * 2))
    torch.testing.assert_close(stretched(heat), theirs, rtol=0, atol=1e-5)


def test_no_evidence_is_zero_and_weak_evidence_is_not():
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    image = torch.tensor([[[[2.0, 3.0], [3.0, 4.0]]]])
    heat = grad_cam(model, image, "0", first_class)
    torch.testing.assert_close(heat, image[:, 0] / 4)  # 0.5 at the weakest place, not 0
    assert grad_cam(model, -image, "0", first_class).eq(0).all()


def test_by_hand_two_maps_with_opposite_weights():
    model = nn.Sequential(
        nn.Identity(), Returns(lambda maps: 3 * maps[:, 0].sum((1, 2)) - maps[:, 1].sum((1, 2)))
    ).eval()
    maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 5.0]]], [[[1.0, 2.0]], [[0.0, 0.0]]]])
    # 3 * [1, 0] - [0, 5] = [3, -5] -> [3, 0] -> [1, 0]; 3 * [1, 2] = [3, 6] -> [0.5, 1]
    heat = grad_cam(model, maps, "0", lambda score: score)
    torch.testing.assert_close(heat, torch.tensor([[[1.0, 0.0]], [[0.5, 1.0]]]))


@pytest.mark.parametrize("n", [1, 3])
def test_shape_range_and_independence_of_the_batch(n):
    model, images = network("resnet18"), photos(n)
    heat = grad_cam(model, images, "layer3", first_class)
    assert heat.shape == (n, 96, 160)
    assert heat.dtype == torch.float32
    assert heat.min() >= 0
    assert heat.amax((1, 2)).tolist() == [1.0] * n
    alone = torch.cat([grad_cam(model, image[None], "layer3", first_class) for image in images])
    torch.testing.assert_close(heat, alone, rtol=0, atol=1e-4)


def test_it_leaves_no_trace(no_trace):
    model, images = DrawsNoise(), torch.randn(2, 1, 8, 8, requires_grad=True)
    model(images).sum().backward()
    before = images.grad.clone()
    model.eval()
    with no_trace(model):
        grad_cam(model, images, "0", first_class)
    assert torch.equal(images.grad, before)


def test_the_images_are_not_written_over():
    model, images = WritesOverItsInput().eval(), torch.ones(1, 1, 8, 8)
    grad_cam(model, images, "conv", lambda out: out.sum((1, 2, 3)))
    assert images.eq(1).all()


def test_frozen_models_and_switched_off_gradients_give_the_same_map():
    model, images = FrozenBackbone().eval(), torch.rand(2, 1, 8, 8)
    heat = grad_cam(model, images, "backbone.2", first_class)
    model.requires_grad_(False)
    torch.testing.assert_close(grad_cam(model, images, "backbone.2", first_class), heat)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = grad_cam(model, images * 1, "backbone.2", first_class)
        torch.testing.assert_close(found.clone(), heat)


def test_an_inplace_layer_afterwards_does_not_change_the_map():
    model, images = InplaceAfterConv().eval(), torch.randn(2, 1, 8, 8)
    safe = nn.Sequential(model[0], nn.ReLU(), model[2]).eval()

    def score(out):
        return out[:, 0].mean((1, 2))

    expected = grad_cam(safe, images, "0", score)
    torch.testing.assert_close(grad_cam(model, images, "0", score), expected, rtol=0, atol=0)


def test_compiled_and_wrapped_models_give_the_same_map():
    model, images = TwoConvs().eval(), torch.rand(2, 1, 8, 8)
    expected = grad_cam(model, images, "1", first_class)
    compiled = torch.compile(model, backend="eager")
    compiled(images)
    for other in (compiled, nn.DataParallel(model).eval()):
        torch.testing.assert_close(grad_cam(other, images, "1", first_class), expected)


def test_a_detector_is_explained_by_the_score_of_what_it_found():
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    ).eval()
    heat = grad_cam(
        model,
        torch.rand(1, 3, 64, 96),
        "backbone.body.13",
        lambda found: torch.stack([one["scores"].sum() for one in found]),
    )
    assert heat.shape == (1, 64, 96)
    assert 0 <= heat.min() <= heat.max() <= 1


@pytest.mark.parametrize("asleep", ["everything", "all but the dropout"])
def test_it_refuses_train_mode(asleep, no_trace):
    model = DrawsNoise()
    if asleep != "everything":
        model.eval()
        model[2].train()
    with no_trace(model), pytest.raises(ValueError, match=r"train mode \(.*call model.eval\(\)"):
        grad_cam(model, torch.zeros(1, 1, 8, 8), "0", first_class)


@pytest.mark.parametrize(
    ("model", "layer", "target", "message"),
    [
        (TwoConvs(), "0", lambda out: out, r"target\(output\) of shape \(2,\).*got \(2, 3\)"),
        (TwoConvs(), "0", lambda out: out.sum(), r"one score per image, got \(\)"),
        (TwoConvs(), "4", first_class, r"feature maps \[2,K,h,w\] from layer '4', got \(2, 3\)"),
        (TwoConvs(), "0", lambda out: out[:, 0].detach(), "does not depend on layer '0'"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), TwoConvs()), "1.7", first_class, "'1.7' not found"),
        (nn.Sequential(TupleOutput(), Returns(lambda out: out[0])), "0", first_class, "a tuple"),
        (UnusedBranch(), "unused", first_class, "'unused' to run once, it ran 0 times"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_reason(model, layer, target, message):
    first = next(model.parameters())
    images = torch.rand(2, 1, 8, 8) if first.ndim == 4 else torch.rand(2, 3)
    with pytest.raises((ValueError, KeyError), match=message):
        grad_cam(model.eval(), images, layer, target)


def test_a_pattern_is_a_name_when_it_matches_one_layer():
    model, images = TwoConvs().eval(), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(
        grad_cam(model, images, "2*", first_class), grad_cam(model, images, "2", first_class)
    )
    with pytest.raises(ValueError, match=r"one layer, got '\[02\]', which matches 2: 0, 2"):
        grad_cam(model, images, "[02]", first_class)


def test_a_layer_that_runs_twice_is_refused():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten()).eval()
    with pytest.raises(ValueError, match="layer '0' to run once, it ran 2 times"):
        grad_cam(model, torch.rand(1, 1, 8, 8), "0", first_class)


def test_values_that_are_not_finite_are_refused():
    model = TwoConvs().eval()
    nn.init.constant_(model[0].bias, float("nan"))
    with pytest.raises(FloatingPointError, match="first_bad"):
        grad_cam(model, torch.rand(1, 1, 8, 8), "0", first_class)


def test_an_error_in_forward_arrives_and_no_hook_stays(no_trace):
    model = RaisesInForward().eval()
    with no_trace(model), pytest.raises(RuntimeError, match=r"^on purpose$"):
        grad_cam(model, torch.zeros(1, 1, 8, 8), "conv", first_class)
