"""Attention: let each token read from all others, as much of each as it chooses.

After Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762, 3.2.
A mask is True where a token may *not* be read, as in ``torch.nn.MultiheadAttention``; PyTorch's
``scaled_dot_product_attention`` means the opposite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from labs.models.settings import refuse_counts


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how much each query reads of each key, [...,Q,K]; every row adds up to 1.

    Products of two vectors of D numbers with variance 1 have the variance D. They are divided by
    its square root, so that the softmax is as soft for wide vectors as for narrow ones.

    Args:
        query: [...,Q,D].
        key: [...,K,D].
        mask: True where a key may not be read, of bool, broadcast to [...,Q,K]. A query that may
            read nothing gets a row of zeros.
    """
    logits = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is None:
        return logits.softmax(-1)
    weights = logits.masked_fill(mask, -torch.inf).softmax(-1)
    return weights.masked_fill(mask, 0)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of the values, weighted as each query wishes: [...,Q,V].

    Args:
        query: [...,Q,D].
        key: [...,K,D].
        value: [...,K,V].
        mask: As in :func:`attention_weights`.
    """
    return attention_weights(query, key, mask) @ value


class MultiHeadAttention(nn.Module):
    """Attend several times side by side, each head in a part of the channels of its own.

    Args:
        width: Channels of the tokens.
        heads: Into how many the channels are divided.
        dropout: Share of the weights that is set to zero in train mode.

    Raises:
        ValueError: When the channels cannot be divided so.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        refuse_counts("MultiHeadAttention", {"width": width, "heads": heads})
        if width % heads:
            raise ValueError(
                "MultiHeadAttention: expected a width that the heads divide, got "
                f"width={width}, heads={heads}"
            )
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key, self.value):
            # As PyTorch draws the three as one matrix with three times as many rows.
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(0.5))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return what each query has read: [N,Q,width].

        Args:
            query: Tokens that read, [N,Q,width].
            key: Tokens by which is chosen, [N,K,width]; those that read, when None.
            value: What is read of each of them, [N,K,width]; the keys, when None.
            padding: Keys that do not exist, True in [N,K]: no query reads them.
            mask: Pairs that may not meet, True in [Q,K] or [N,Q,K].
        """
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self.value(value)
        hidden = _hidden(padding, mask)
        read = scaled_dot_product_attention(
            q,
            k,
            self._split(v),
            attn_mask=None if hidden is None else ~hidden,  # it asks what may be read
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(read.transpose(1, 2).flatten(2))  # [N,heads,Q,D] -> [N,Q,width]

    def weights(
        self,
        query: Tensor,
        key: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return how much each head reads, [N,heads,Q,K], without dropout; arguments as above."""
        key = query if key is None else key
        q, k = self._split(self.query(query)), self._split(self.key(key))
        return attention_weights(q, k, _hidden(padding, mask))

    def _split(self, tokens: Tensor) -> Tensor:
        """Divide the channels: [N,T,width] -> [N,heads,T,width/heads]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """Return True where a token would read a later one: [length,length] of bool."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


def _hidden(padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return what no head may read, in a form that is broadcast to [N,heads,Q,K]."""
    for name, given in (("padding", padding), ("mask", mask)):
        if given is not None and given.dtype != torch.bool:
            raise ValueError(
                f"MultiHeadAttention: expected {name} of bool, True where nothing may be read, got "
                f"{given.dtype}; compare with a number first"
            )
    hidden = None if padding is None else padding[:, None, None]  # [N,1,1,K]
    if mask is not None:
        mask = mask[:, None] if mask.ndim == 3 else mask
        hidden = mask if hidden is None else hidden | mask
    return hidden
