"""ViT computes what torchvision's and transformers' compute with the same weights."""

from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models import vit_b_16 as vit_b_16_of_torchvision
from transformers import ViTConfig, ViTForImageClassification

from labs.models import ViT, load_published, resize_positions, vit_b_16
from labs.models.published.vit import of_torchvision as of_torchvision_layout

STRICT = {"rtol": 1e-9, "atol": 1e-9}


def small(**changed):
    return ViT(**{"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4}
               | {"hidden": 64, "num_classes": 5} | changed)  # fmt: skip


def shaken(network):
    """Draw every weight, since a head of zeros would hide the rest."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
    return network.double().eval()


@cache
def of_torchvision():
    return shaken(VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5))


@cache
def of_transformers():
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=5, layer_norm_eps=1e-6,
    )  # fmt: skip
    return shaken(ViTForImageClassification(config))


def pictures(height=32, width=32):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)).double()


def check(ours, images, expected, theirs_names, loaded):
    """Compare logits, and the gradients of all parameters by their published names."""
    found = ours(images)
    torch.testing.assert_close(found, expected, **STRICT)
    found.square().sum().backward()
    expected.square().sum().backward()
    mine = dict(ours.named_parameters())
    for theirs, here in loaded.names.items():
        stack, _, part = theirs.partition("[")
        gradient = theirs_names[stack].grad
        if part:
            gradient = gradient.chunk(3)[("query]", "key]", "value]").index(part)]
        torch.testing.assert_close(mine[here].grad, gradient, **STRICT)


def test_it_equals_torchvisions_in_output_and_gradients():
    theirs, ours = of_torchvision(), small().double().eval()
    theirs.zero_grad()
    loaded = load_published(ours, theirs.state_dict())
    assert len(loaded.names) == len(ours.state_dict())
    images = pictures()
    check(ours, images, theirs(images), dict(theirs.named_parameters()), loaded)


def test_it_equals_that_of_transformers_in_output_and_gradients():
    theirs, ours = of_transformers(), small().double().eval()
    theirs.zero_grad()
    loaded = load_published(ours, theirs.state_dict(), "transformers")
    assert len(loaded.names) == len(ours.state_dict())
    images = pictures()
    check(ours, images, theirs(images).logits, dict(theirs.named_parameters()), loaded)


def test_on_images_of_another_size_and_shape_codes_are_interpolated_as_there():
    theirs, ours = of_transformers(), small().double().eval()
    load_published(ours, theirs.state_dict(), "transformers")
    for height, width in ((48, 24), (16, 64), (40, 40)):
        images = pictures(height, width)
        with torch.no_grad():
            expected = theirs(images, interpolate_pos_encoding=True).logits
            torch.testing.assert_close(ours(images), expected, **STRICT)


def test_base_has_the_published_count_and_the_entries_of_the_published_file():
    with torch.device("meta"):
        ours, theirs = vit_b_16(), vit_b_16_of_torchvision()
    assert sum(p.numel() for p in ours.parameters()) == 86_567_656
    names = load_published(
        vit_b_16(num_classes=3).to_empty(device="cpu"),
        vit_b_16_of_torchvision(num_classes=3).state_dict(),
    ).names
    stacks = {name.partition("[")[0] for name in names}
    assert stacks == set(theirs.state_dict())


def test_a_file_for_another_grid_is_refused_and_nothing_is_loaded():
    ours = small(image_size=64)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"encoder.pos_embedding \[1, 17, 32\] in place of \[1, 65"
    ):
        load_published(ours, of_torchvision().float().state_dict())
    of_torchvision().double()
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_the_patch_embedding_is_a_linear_layer_of_each_patch():
    ours = shaken(small())
    images = pictures(16, 24)
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # [2,3,2,3,8,8]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # [2,6,192]
    weight, bias = ours.patches.weight.flatten(1), ours.patches.bias
    codes = resize_positions(ours.positions[0], (4, 4), (2, 3), extra=1)
    tokens = ours.tokens(images)
    torch.testing.assert_close(tokens[:, 1:], patches @ weight.T + bias + codes[1:], **STRICT)
    # The class token has a place as well: the first.
    torch.testing.assert_close(
        tokens[:, 0], (ours.class_token[0, 0] + ours.positions[0, 0]).expand(2, -1), **STRICT
    )


def test_the_mean_is_taken_of_normalised_tokens():
    ours = shaken(small(pool="mean"))
    images = pictures()
    tokens = ours.encoder(ours.tokens(images))
    assert tokens.shape == (2, 16, 32)
    torch.testing.assert_close(ours(images), ours.head(tokens.mean(1)), **STRICT)
    torch.testing.assert_close(
        tokens.mean(-1), ours.encoder.norm.bias.mean().expand(2, 16), rtol=0, atol=0.5
    )
    raw = ours.tokens(images)
    for layer in ours.encoder.layers:
        raw = layer(raw)
    other = ours.head(ours.encoder.norm(raw.mean(1)))
    assert not torch.allclose(ours(images), other)


@pytest.mark.parametrize("positions", ["learnt", "sine", "none"])
def test_without_positions_and_only_then_the_order_of_the_patches_is_lost(positions):
    ours = small(positions=positions).double().eval()
    nn.init.normal_(ours.head.weight)
    images = pictures()
    rows = images.unflatten(2, (4, 8))
    shuffled = rows[:, :, torch.tensor([2, 0, 3, 1])].flatten(2, 3)
    same = torch.allclose(ours(images), ours(shuffled), rtol=1e-9, atol=1e-9)
    assert same == (positions == "none")


def test_fixed_codes_are_no_parameters():
    learnt, sine, none = (small(positions=kind) for kind in ("learnt", "sine", "none"))
    counts = [sum(p.numel() for p in one.parameters()) for one in (learnt, sine, none)]
    assert counts[0] - counts[1] == 17 * 32
    assert counts[1] == counts[2]
    assert "positions" not in sine.state_dict()
    assert sine.positions[0, 0].eq(0).all()
    assert none.positions is None


def test_it_begins_as_the_authors_program_does():
    torch.manual_seed(0)
    ours, theirs = small(width=256, hidden=512), VisionTransformer(32, 8, 2, 4, 256, 512)
    for name in ("patches.weight", "positions", "encoder.layers.0.feed_forward.linear1.weight"):
        there = next(k for k, v in load_names(ours).items() if v == name)
        mine, other = (
            dict(net.named_parameters())[key].std().item()
            for net, key in ((ours, name), (theirs, there))
        )
        assert mine == pytest.approx(other, rel=0.05), name
    assert ours.head.weight.eq(0).all()


def load_names(network):
    return of_torchvision_layout(network).names


def test_every_parameter_learns_when_the_head_speaks():
    ours = small()
    nn.init.normal_(ours.head.weight)
    ours(pictures().float()).square().sum().backward()
    # A code that is added to every key moves all logits of a query alike.
    silent = [n for n, p in ours.named_parameters() if not p.grad.abs().max() > 1e-9]
    assert all(name.endswith("self_attn.key.bias") for name in silent)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small(image_size=30), "patches of 8 pixels fill, got 30x30"),
        (lambda: small()(torch.rand(1, 3, 32, 36)), "fill, got 32x36; resize or pad"),
        (lambda: small(pool="max"), "pool 'class' or 'mean' .* got pool='max'"),
        (lambda: small(positions="cosine"), "got pool='class', positions='cosine'"),
        (lambda: small(depth=0), "depth to be a whole number from 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
