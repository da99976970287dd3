import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from torch import nn

from labs.hooks import from_nhwc, from_tokens, grad_cam
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


class Moves(nn.Module):
    """Move axes, so that a reference sees [N,K,h,w]."""

    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(*self.order)


class Grid(nn.Module):
    """Lay tokens out as a map, and keep the class token for what follows."""

    def __init__(self, h, w):
        super().__init__()
        self.size = h, w

    def forward(self, tokens):
        self.first = tokens[:, :1]
        return tokens[:, 1:].unflatten(1, self.size).permute(0, 3, 1, 2)


def by_captum(model, images, spy):
    raw = LayerGradCam(model, spy).attribute(images, target=3, relu_attributions=True)
    raw = nn.functional.interpolate(raw, images.shape[-2:], mode="bilinear")[:, 0].detach()
    assert raw.amax((1, 2)).min() > 0
    return raw / raw.amax((1, 2), keepdim=True)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("swin_t", "features.1"), ("swin_t", "features.7"), ("convnext_tiny", "features.7.2.block.2")],
)
def test_maps_with_channels_last_equal_captum_on_the_same_maps_turned(name, layer):
    model, images = network(name), photos()
    with pytest.raises(ValueError, match=r"channels on the last axis; pass reshape=from_nhwc"):
        grad_cam(model, images, layer, lambda logits: logits[:, 3])
    heat = grad_cam(model, images, layer, lambda logits: logits[:, 3], reshape=from_nhwc)
    spy = Moves(0, 3, 1, 2)
    model.set_submodule(
        layer, nn.Sequential(model.get_submodule(layer), spy, Moves(0, 2, 3, 1)), strict=True
    )
    torch.testing.assert_close(heat, by_captum(model, images, spy), rtol=0, atol=1e-5)


def test_tokens_of_a_vision_transformer_equal_captum_on_a_grid():
    model, images = vision_transformer(), photos()[:, :, :64, :64]
    layer, score = "encoder.layers.encoder_layer_11.ln_1", lambda logits: logits[:, 3]
    with pytest.raises(ValueError, match=r"tokens: pass reshape=from_tokens\(4, 4, skip=1\)"):
        grad_cam(model, images, layer, score)
    heat = grad_cam(model, images, layer, score, reshape=from_tokens(4, 4))
    spy = Grid(4, 4)
    back = Returns(lambda maps: torch.cat([spy.first, maps.flatten(2).transpose(1, 2)], 1))
    model.set_submodule(layer, nn.Sequential(model.get_submodule(layer), spy, back), strict=True)
    torch.testing.assert_close(heat, by_captum(model, images, spy), rtol=0, atol=1e-5)


def vision_transformer():
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(weights=None, image_size=64).eval()
    nn.init.normal_(model.heads.head.weight)  # it starts at zero, where nothing is explained
    return model


@pytest.mark.parametrize(
    ("shape", "size", "fits"),
    [
        ((2, 8, 4, 6), (64, 96), True),
        ((2, 8, 5, 7), (64, 96), True),  # convolutions without padding
        ((2, 16, 16, 44), (28, 56), True),  # many of them: still nearer than twice
        ((2, 8, 7, 7), (64, 96), True),  # adaptive pooling
        ((2, 8, 1, 1), (64, 96), True),
        ((2, 8, 128, 192), (64, 96), True),  # enlarged
        ((2, 4, 4, 8), (32, 32), False),
        ((2, 16, 24, 9), (64, 96), False),
        ((2, 512, 1, 65), (32, 256), False),
        ((2, 3, 65, 65), (32, 256), False),
    ],
)
def test_the_form_of_the_images_tells_maps_from_other_layouts(shape, size, fits):
    maps = torch.rand(shape)
    model = nn.Sequential(Returns(lambda x: maps), Returns(lambda x: x.mean((1, 2, 3))[:, None]))
    images = torch.rand(2, 3, *size)
    kept = grad_cam(model.eval(), images, "0", first_class, reshape=lambda maps: maps)
    assert kept.shape == (2, *size)
    if fits:
        torch.testing.assert_close(grad_cam(model, images, "0", first_class), kept)
    else:
        fix = r"images of \d+x\d+, got .*, and h:w is .*; pass .*reshape=lambda maps: maps"
        with pytest.raises(ValueError, match=fix):
            grad_cam(model, images, "0", first_class)


@pytest.mark.parametrize(
    ("layer", "refused"),
    [
        (nn.LayerNorm(8), True),
        (nn.Linear(8, 8), True),
        (nn.Sequential(nn.LayerNorm(8), nn.GELU()), True),
        (nn.LayerNorm((8, 8)), False),
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.LayerNorm(8)), False),
        (nn.GroupNorm(2, 8), False),
        (torchvision.models.convnext.LayerNorm2d(8), False),
    ],
)
def test_where_lengths_are_alike_the_parts_of_the_layer_tell(layer, refused):
    model = nn.Sequential(layer, Returns(lambda x: x[:, :, 0, 0])).eval()
    images = torch.rand(2, 7 if refused else 8, 8, 8)
    if refused:
        with pytest.raises(ValueError, match="channels on the last axis; pass reshape=from_nhwc"):
            grad_cam(model, images, "0", first_class)
    else:
        assert grad_cam(model, images, "0", first_class).shape == (2, 8, 8)


def test_a_wrong_reshape_says_what_is_wrong():
    tokens, maps = torch.rand(2, 25, 8), torch.rand(2, 8, 4, 6)
    images = torch.rand(2, 3, 64, 96)

    def explain(output, reshape):
        model = nn.Sequential(Returns(lambda x: output), Returns(lambda x: x.flatten(1)[:, :1]))
        return grad_cam(model.eval(), images, "0", first_class, reshape=reshape)

    assert explain(tokens, from_tokens(4, 6)).shape == (2, 64, 96)
    for output, reshape, message in (
        (tokens, from_tokens(6, 4), r"got \(2, 8, 6, 4\); for images of 64x96 swap h and w"),
        (tokens, from_tokens(4, 6, skip=0), r"tokens \[N,24,K\] for skip=0 and 4x6 patches, got"),
        (tokens, from_nhwc, r"expected maps \[N,h,w,K\], got \(2, 25, 8\); tokens"),
        (tokens, lambda x: None, r"reshape to make maps \[2,K,h,w\] .*got a NoneType"),
        (tokens, lambda x: x, r"of what layer '0' returns, \(2, 25, 8\), got \(2, 25, 8\)"),
        (maps, from_nhwc, "these were maps already: leave reshape out"),
        (torch.rand(2, 300, 8), None, r"tokens \[N,T,K\]: pass reshape=from_tokens\(h, w, skip\)"),
        (tokens[:, :24], None, r"from_tokens\(4, 6, skip=0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(output, reshape)
    for wrong in ((0, 1), (1, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="expected h, w >= 1 and skip >= 0, got"):
            from_tokens(*wrong)


def test_other_inputs_have_names():
    class Weighs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, images, *, weight):
            return (weight * self.layer(images)).sum((2, 3))

    images = torch.rand(1, 1, 2, 2)
    weight = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    heat = grad_cam(Weighs().eval(), images, "layer", first_class, kwargs={"weight": weight})
    torch.testing.assert_close(heat, images[:, 0] / images.max())
    with pytest.raises(TypeError, match="grad_cam: expected kwargs to be a dict"):
        grad_cam(Weighs().eval(), images, "layer", first_class, kwargs=weight)


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match=r"expected a tensor \[N,C,H,W\], got a list"):
        grad_cam(TwoConvs().eval(), [torch.rand(1, 8, 8)], "0", first_class)
    with pytest.raises(ValueError, match=r"of shape \(2,\), one score per image, got a float"):
        grad_cam(TwoConvs().eval(), torch.rand(2, 1, 8, 8), "0", lambda out: 0.5)
