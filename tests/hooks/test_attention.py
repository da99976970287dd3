"""Who reads whom, seen from outside: in our networks, in torchvision's and in PyTorch's."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from labs.hooks import attention_rollout, capture_attention
from labs.models import MultiHeadAttention, ViT, causal_mask
from tests.criteria import deformable_detr, detr

EXACT = {"rtol": 0, "atol": 0}


def vit():
    torch.manual_seed(0)
    return ViT(32, 8, 32, 3, 4, 64, 5).eval()


def pictures():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_layer_of_a_vit_is_seen_and_rows_add_up_to_one():
    network, images = vit(), pictures()
    expected = network(images)
    with capture_attention(network) as maps:
        found = network(images)
    torch.testing.assert_close(found, expected, **EXACT)
    assert maps.keys() == [f"encoder.layers.{i}.self_attn" for i in range(3)]
    for layer in maps:
        assert maps[layer].shape == (2, 4, 17, 17)
        assert not maps[layer].requires_grad
        torch.testing.assert_close(maps[layer].sum(-1), torch.ones(2, 4, 17))
    x = network.tokens(images)
    first = network.encoder.layers[0]
    torch.testing.assert_close(
        maps["encoder.layers.0.self_attn"], first.self_attn.weights(first.norm1(x))
    )


def test_torchvisions_vit_says_the_same_and_computes_what_it_did():
    torch.manual_seed(0)
    network, images = VisionTransformer(32, 8, 2, 4, 32, 64, 0.5, 0.5), pictures()
    for mode in (True, False):
        network.train(mode)
        torch.manual_seed(3)
        expected = network(images)
        torch.manual_seed(3)
        with capture_attention(network, "encoder.*") as maps:
            found = network(images)
        torch.testing.assert_close(found, expected, **EXACT)  # and no dropout was drawn
        assert all(module.training == mode for module in network.modules())
        assert len(maps) == 2
        for layer in maps:
            assert maps[layer].shape == (2, 4, 17, 17)
            torch.testing.assert_close(maps[layer].sum(-1), torch.ones(2, 4, 17))


def test_masks_and_memories_of_pytorchs_transformer_are_seen():
    torch.manual_seed(0)
    network = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    source, target = torch.rand(2, 5, 16), torch.rand(2, 3, 16)
    with torch.no_grad(), capture_attention(network) as maps:
        network(source, target, tgt_mask=causal_mask(3))
    shapes = {layer: tuple(maps[layer].shape) for layer in maps}
    assert shapes == {
        "encoder.layers.0.self_attn": (2, 2, 5, 5),
        "decoder.layers.0.self_attn": (2, 2, 3, 3),
        "decoder.layers.0.multihead_attn": (2, 2, 3, 5),
    }
    assert maps["decoder.layers.0.self_attn"].triu(1).eq(0).all()


def test_padding_of_detr_is_never_read():
    torch.manual_seed(0)
    network = detr.network().eval()
    padding = torch.zeros(1, 64, 128, dtype=torch.bool)
    padding[..., 64:] = True
    with capture_attention(network) as maps:
        network(torch.rand(1, 3, 64, 128), padding)
    away = padding[0, ::32, ::32].flatten()
    reads = maps["decoder.layers.1.multihead_attn"]
    assert reads[..., away].eq(0).all()
    assert reads[..., ~away].gt(0).all()
    assert len(maps) == 2 + 2 * 2


def test_deformable_attention_has_points_and_no_such_maps():
    torch.manual_seed(0)
    network = deformable_detr.network(False, False).eval()
    with capture_attention(network) as maps:
        network(torch.rand(1, 3, 64, 64))
    assert maps.keys() == ["decoder.0.self_attn", "decoder.1.self_attn"]


def test_a_layer_that_runs_twice_is_kept_twice():
    torch.manual_seed(0)
    shared = MultiHeadAttention(8, 2)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    with capture_attention(network, "0") as maps:
        network(torch.rand(1, 3, 8))
    assert [weights.shape for weights in maps["0"]] == [(1, 2, 3, 3)] * 2
    assert maps.table()["call"].tolist() == [0, 0, 1, 1]


def test_the_table_tells_wide_heads_from_narrow_ones():
    attention = MultiHeadAttention(8, 2)
    with torch.no_grad():
        for layer in (attention.query, attention.key):
            layer.weight.copy_(torch.eye(8) * torch.tensor([0.0] * 4 + [30.0] * 4)[:, None])
    x = torch.eye(8)[None, 4:]  # four tokens: alike for the first head, apart for the second
    with capture_attention(attention) as maps:
        attention(x)
    table = maps.table().set_index("head")
    assert table["entropy"][0] == pytest.approx(math.log(4), abs=1e-4)
    assert table["largest"][0] == pytest.approx(1 / 4, abs=1e-4)
    assert table["entropy"][1] < 0.01
    assert table["largest"][1] > 0.99
    assert table[["queries", "keys"]].to_numpy().tolist() == [[4, 4]] * 2


def test_hooks_are_gone_also_after_an_error():
    network = vit()
    with pytest.raises(ValueError, match="patches of 8 pixels"), capture_attention(network):
        network(torch.rand(1, 3, 30, 30))
    assert all(not module._forward_pre_hooks for module in network.modules())


def test_rollout_is_the_product_of_the_layers_with_their_shortcuts():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, 4, 4, generator=generator).softmax(-1) for _ in range(3)]
    a, b, c = (0.5 * weights.mean(1) + 0.5 * torch.eye(4) for weights in maps)
    torch.testing.assert_close(attention_rollout(maps), c @ b @ a)
    torch.testing.assert_close(attention_rollout(maps).sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(attention_rollout(maps, 1.0), torch.eye(4).expand(2, -1, -1))
    torch.testing.assert_close(attention_rollout(maps[:1], 0.0), maps[0].mean(1))


def test_of_a_token_that_nobody_reads_nothing_arrives():
    weights = torch.full((1, 1, 3, 3), 1 / 2)
    weights[..., 2] = 0
    out = attention_rollout([weights, weights])
    assert out[0, :2, 2].eq(0).all()
    assert out[0, 2, 2] > 0  # but by its own shortcut


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: capture_attention(resnet18()).__enter__(), TypeError, "got none; other attention"),
        (lambda: capture_attention(vit(), "head").__enter__(), TypeError, "got 'head', a Linear"),
        (lambda: capture_attention(vit(), "encodr").__enter__(), KeyError, "encoder"),
        (lambda: attention_rollout([torch.rand(1, 2, 3, 4)]), ValueError, r"got \[\(3, 4\)\]"),
    ],
)
def test_what_cannot_be_watched_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_layer_that_was_not_watched_is_named():
    network = vit()
    with capture_attention(network, "encoder.layers.0.*") as maps:
        network(pictures())
    with pytest.raises(KeyError, match=r"those that ran: encoder\.layers\.0\.self_attn"):
        maps["encoder.layers.1.self_attn"]
    assert "encoder.layers.0.self_attn [2, 4, 17, 17]" in repr(maps)
