"""Encoder and decoder layers compute what PyTorch's do, post-norm and pre-norm."""

import pytest
import torch
from torch import nn

from labs.models import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward, causal_mask

STRICT = {"rtol": 1e-9, "atol": 1e-9}
PADDING = torch.tensor([[False, False, False, True, True], [False, True, False, False, False]])
KINDS = [(first, act) for first in (False, True) for act in ("relu", "gelu")]


def copy_attention(ours, theirs):
    for part, weight, bias in zip(
        (ours.query, ours.key, ours.value),
        theirs.in_proj_weight.chunk(3),
        theirs.in_proj_bias.chunk(3),
        strict=True,
    ):
        part.load_state_dict({"weight": weight, "bias": bias})
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def twins(kind, norm_first, activation):
    """Return a layer of ours and PyTorch's with the same random weights."""
    torch.manual_seed(0)
    mine, reference = {
        "encoder": (EncoderLayer, nn.TransformerEncoderLayer),
        "decoder": (DecoderLayer, nn.TransformerDecoderLayer),
    }[kind]
    theirs = reference(
        12, 3, 20, 0.0, activation, norm_first=norm_first, batch_first=True, layer_norm_eps=1e-3
    ).double()
    with torch.no_grad():
        for weight in theirs.parameters():
            nn.init.normal_(weight, std=0.4)
    ours = mine(12, 3, 20, 0.0, activation, norm_first, eps=1e-3).double()
    for name in ("self_attn", "multihead_attn"):
        if hasattr(ours, name):
            copy_attention(getattr(ours, name), getattr(theirs, name))
    for name in ("norm1", "norm2", "norm3"):
        if hasattr(ours, name):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    for name in ("linear1", "linear2"):
        getattr(ours.feed_forward, name).load_state_dict(getattr(theirs, name).state_dict())
    return ours, theirs


def tokens(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def check_gradients(found, expected, mine, same, ours, theirs):
    torch.testing.assert_close(found, expected, **STRICT)
    found.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(mine, same, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **STRICT)
    for name in ("linear1", "linear2"):
        a, b = getattr(ours.feed_forward, name), getattr(theirs, name)
        torch.testing.assert_close(a.weight.grad, b.weight.grad, **STRICT)
    torch.testing.assert_close(ours.norm1.weight.grad, theirs.norm1.weight.grad, **STRICT)


@pytest.mark.parametrize(("norm_first", "activation"), KINDS)
def test_an_encoder_layer_equals_pytorchs(norm_first, activation):
    ours, theirs = twins("encoder", norm_first, activation)
    x = tokens(2, 5, 12)
    same = x.detach().clone().requires_grad_()
    found = ours(x, padding=PADDING, mask=causal_mask(5))
    expected = theirs(same, src_mask=causal_mask(5), src_key_padding_mask=PADDING)
    check_gradients(found, expected, [x], [same], ours, theirs)


@pytest.mark.parametrize(("norm_first", "activation"), KINDS)
def test_a_decoder_layer_equals_pytorchs(norm_first, activation):
    ours, theirs = twins("decoder", norm_first, activation)
    mine = [tokens(2, 4, 12), tokens(2, 5, 12, seed=1)]
    same = [x.detach().clone().requires_grad_() for x in mine]
    found = ours(*mine, padding=PADDING, mask=causal_mask(4))
    expected = theirs(*same, tgt_mask=causal_mask(4), memory_key_padding_mask=PADDING)
    check_gradients(found, expected, mine, same, ours, theirs)


@pytest.mark.parametrize("norm_first", [False, True])
def test_positions_choose_who_is_read_and_are_never_read(norm_first):
    ours, _ = twins("encoder", norm_first, "relu")
    x, place = tokens(2, 5, 12).detach(), tokens(5, 12, seed=4).detach()
    assert not torch.allclose(ours(x, place), ours(x))
    # The same code everywhere changes every logit of a query alike, or by what the key's bias says.
    with torch.no_grad():
        for part in (ours.self_attn.query, ours.self_attn.key):
            part.weight.zero_()
    torch.testing.assert_close(ours(x, place), ours(x), **STRICT)


def test_a_decoder_layer_places_queries_and_memory():
    ours, _ = twins("decoder", False, "relu")
    queries, memory = tokens(2, 4, 12).detach(), tokens(2, 5, 12, seed=1).detach()
    place, there = tokens(4, 12, seed=4).detach(), tokens(5, 12, seed=5).detach()
    plain = ours(queries, memory)
    assert not torch.allclose(ours(queries, memory, place), plain)
    assert not torch.allclose(ours(queries, memory, None, there), plain)
    order = torch.tensor([3, 1, 4, 0, 2])  # a memory is a set of tokens and their places
    torch.testing.assert_close(
        ours(queries, memory[:, order], place, there[order]),
        ours(queries, memory, place, there),
        **STRICT,
    )
    assert not torch.allclose(
        ours(queries, memory[:, order], place, there), ours(queries, memory, place, there)
    )


def test_a_decoder_layer_adds_places_where_detr_does():
    ours, theirs = twins("decoder", False, "relu")
    queries, memory = tokens(2, 4, 12), tokens(2, 5, 12, seed=1)
    place, there = tokens(4, 12, seed=4), tokens(5, 12, seed=5)
    placed = queries + place
    x = theirs.norm1(queries + theirs.self_attn(placed, placed, queries)[0])
    x = theirs.norm2(x + theirs.multihead_attn(x + place, memory + there, memory)[0])
    expected = theirs.norm3(x + theirs.linear2(theirs.linear1(x).relu()))
    torch.testing.assert_close(ours(queries, memory, place, there), expected, **STRICT)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_with_silent_parts_pre_norm_is_the_identity(kind):
    ours, _ = twins(kind, True, "gelu")
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if ".out." in name or "linear2" in name:
                weight.zero_()
    x = 5 * tokens(2, 4, 12).detach()
    more = [tokens(2, 5, 12, seed=1)] if kind == "decoder" else []
    torch.testing.assert_close(ours(x, *more), x, rtol=0, atol=0)


def test_an_encoder_is_its_layers_and_then_its_norm():
    torch.manual_seed(0)
    layers = [EncoderLayer(12, 3, 20, norm_first=True).double() for _ in range(3)]
    norm = nn.LayerNorm(12).double()
    x, place = tokens(2, 5, 12), tokens(5, 12, seed=1)
    expected = x
    for layer in layers:
        expected = layer(expected, place, padding=PADDING)
    encoder = Encoder(layers, norm)
    torch.testing.assert_close(encoder(x, place, padding=PADDING), norm(expected), **STRICT)
    torch.testing.assert_close(Encoder(layers)(x, place, padding=PADDING), expected, **STRICT)


def test_a_decoder_returns_what_each_layer_says_normed_and_passes_it_on_raw():
    torch.manual_seed(0)
    layers = [DecoderLayer(12, 3, 20).double() for _ in range(3)]
    norm = nn.LayerNorm(12).double()
    nn.init.normal_(norm.weight)
    queries, memory = tokens(2, 4, 12), tokens(2, 5, 12, seed=1)
    said, x = [], queries
    for layer in layers:
        x = layer(x, memory, padding=PADDING)
        said.append(norm(x))
    found = Decoder(layers, norm)(queries, memory, padding=PADDING)
    assert found.shape == (3, 2, 4, 12)
    torch.testing.assert_close(found, torch.stack(said), **STRICT)


def test_an_activation_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="activation 'relu' or 'gelu', got 'silu'"):
        FeedForward(8, 16, activation="silu")
