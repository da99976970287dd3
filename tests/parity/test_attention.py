"""Attention computes what PyTorch's does, by hand and in the module, masked and not."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from labs.models import MultiHeadAttention, attention, attention_weights, causal_mask

STRICT = {"rtol": 1e-9, "atol": 1e-9}
PADDING = torch.tensor([[False, False, False, True, True], [False, True, False, False, False]])


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
def test_by_hand_it_equals_the_operator_in_value_and_gradient(masked):
    mine = [drawn(2, 3, n, d, seed=n) for n, d in ((4, 6), (5, 6), (5, 7))]
    theirs = [x.detach().clone().requires_grad_() for x in mine]
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(9)) < 0.4 if masked else None
    found = attention(*mine, mask)
    expected = scaled_dot_product_attention(*theirs, attn_mask=~mask if masked else None)
    torch.testing.assert_close(found, expected, **STRICT)
    weight = drawn(*found.shape, seed=3).detach()
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **STRICT)


def test_five_tokens_can_be_checked_by_hand():
    key = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [-1, 0]])
    query = torch.tensor([[math.sqrt(2) * math.log(2), 0.0]])  # logits: log 2, 0, log 2, 0, -log 2
    weights = attention_weights(query, key)
    torch.testing.assert_close(weights * 6.5, torch.tensor([[2.0, 1, 2, 1, 0.5]]))


def test_a_query_that_may_read_nothing_reads_nothing_and_stays_finite():
    q, k, v = drawn(2, 4), drawn(3, 4, seed=1), drawn(3, 4, seed=2)
    mask = torch.tensor([[True, True, True], [False, True, False]])
    read = attention(q, k, v, mask)
    assert read[0].eq(0).all()
    assert attention_weights(q, k, mask)[0].eq(0).all()
    read.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert q.grad[0].eq(0).all()
    assert v.grad[1].eq(0).all()


def twins(width=12, heads=3):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(width, heads, batch_first=True).double()
    ours = MultiHeadAttention(width, heads).double()
    with torch.no_grad():
        for weight in theirs.parameters():
            nn.init.normal_(weight, std=0.4)
        parts = (ours.query, ours.key, ours.value)
        pairs = zip(
            parts, theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
        )
        for layer, weight, bias in pairs:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_module_equals_pytorchs_in_value_gradient_and_weights(padded, causal):
    ours, theirs = twins()
    length = 5 if causal else 4
    mine = [drawn(2, length, 12), drawn(2, 5, 12, seed=1), drawn(2, 5, 12, seed=2)]
    same = [x.detach().clone().requires_grad_() for x in mine]
    padding = PADDING if padded else None
    mask = causal_mask(5) if causal else None
    found = ours(*mine, padding=padding, mask=mask)
    expected, weights = theirs(
        *same, key_padding_mask=padding, attn_mask=mask, average_attn_weights=False
    )
    torch.testing.assert_close(found, expected, **STRICT)
    shown = ours.weights(*mine[:2], padding=padding, mask=mask)
    torch.testing.assert_close(shown, weights, **STRICT)
    found.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(mine, same, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **STRICT)
    torch.testing.assert_close(ours.value.weight.grad, theirs.in_proj_weight.grad[24:], **STRICT)
    torch.testing.assert_close(ours.out.weight.grad, theirs.out_proj.weight.grad, **STRICT)


def test_without_keys_the_tokens_read_from_each_other():
    ours, _ = twins()
    x = drawn(2, 5, 12)
    torch.testing.assert_close(ours(x), ours(x, x, x), rtol=0, atol=0)
    torch.testing.assert_close(ours(x, 2 * x), ours(x, 2 * x, 2 * x), rtol=0, atol=0)


def test_logits_of_unit_vectors_have_unit_variance_at_any_width():
    for width in (8, 64, 512):
        generator = torch.Generator().manual_seed(width)
        q, k = (torch.randn(4000, width, generator=generator) for _ in range(2))
        weights = attention_weights(
            q[:, None], k[:, None].expand(-1, 2, -1) * torch.tensor([[1.0], [0]])
        )
        logits = (weights[..., 0] / weights[..., 1]).log()
        assert logits.std().item() == pytest.approx(1, abs=0.05)


def test_what_is_padded_changes_nothing_wherever_it_stands():
    ours, _ = twins()
    x = drawn(2, 5, 12).detach()
    other = torch.where(PADDING[..., None], 100 * x, x)
    kept = ~PADDING
    a, b = ours(x, padding=PADDING), ours(other, padding=PADDING)
    torch.testing.assert_close(a[kept], b[kept], **STRICT)
    assert not torch.allclose(ours(x)[kept], ours(other)[kept])


def test_no_token_reads_a_later_one():
    ours, _ = twins()
    x = drawn(1, 5, 12)
    read = ours(x, mask=causal_mask(5))
    (gradient,) = torch.autograd.grad(read[0, 2].sum(), x)
    assert gradient[0, :3].abs().sum(-1).gt(0).all()
    assert gradient[0, 3:].eq(0).all()


def test_it_begins_as_pytorchs_does():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(256, 8), nn.MultiheadAttention(256, 8)
    for layer, weight in zip(
        (ours.query, ours.key, ours.value), theirs.in_proj_weight.chunk(3), strict=True
    ):
        assert layer.weight.abs().max().item() == pytest.approx(weight.abs().max().item(), rel=0.01)
        assert layer.weight.std().item() == pytest.approx(weight.std().item(), rel=0.02)
    assert all(p.eq(0).all() for name, p in ours.named_parameters() if name.endswith("bias"))


def test_dropout_is_of_weights_and_only_in_train_mode():
    torch.manual_seed(0)
    module = MultiHeadAttention(12, 3, dropout=0.5)
    x = torch.randn(2, 5, 12)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiHeadAttention(10, 3), "width that the heads divide, got width=10, heads=3"),
        (lambda: MultiHeadAttention(10, 0), "heads to be a whole number from 1, got 0"),
        (
            lambda: MultiHeadAttention(4, 2)(torch.rand(1, 2, 4), padding=torch.zeros(1, 2)),
            "padding of bool, True where nothing may be read, got torch.float32",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(torch.rand(1, 2, 4), mask=torch.zeros(2, 2)),
            "mask of bool",
        ),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
