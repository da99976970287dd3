"""Transformer: layers that let tokens talk, then think, each beside a shortcut.

After Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3; with ``norm_first`` as in
Xiong et al. 2020, https://arxiv.org/abs/2002.04745. Names of the parts are those of
``torch.nn.TransformerEncoderLayer`` and ``TransformerDecoderLayer``, whose computation this is.
Positions may be added to what decides who reads whom, and never to what is read (Carion et al.
2020, https://arxiv.org/abs/2005.12872, appendix A.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from labs.models.attention import MultiHeadAttention
from labs.models.settings import refuse_counts

Activation = Literal["relu", "gelu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class FeedForward(nn.Module):
    """Widen each token, cut what is negative, and narrow it again; no token sees another.

    Args:
        width: Channels of the tokens.
        hidden: Channels in between.
        dropout: Share of the hidden channels that is set to zero in train mode.
        activation: ``"relu"`` or ``"gelu"``.
    """

    def __init__(
        self, width: int, hidden: int, dropout: float = 0.0, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        refuse_counts("FeedForward", {"width": width, "hidden": hidden})
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"FeedForward: expected activation 'relu' or 'gelu', got {activation!r}"
            )
        self.linear1 = nn.Linear(width, hidden)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [...,width] to [...,width]."""
        return self.linear2(self.dropout(self.activation(self.linear1(tokens))))


class EncoderLayer(nn.Module):
    """Let the tokens read from each other, then change each of them alone.

    Args:
        width: Channels of the tokens.
        heads: Of the attention.
        hidden: Channels of the feed-forward part.
        dropout: Of weights, of hidden channels, and of what each part adds.
        activation: Of the feed-forward part.
        norm_first: Normalise what a part reads, and leave the shortcut alone (*pre-norm*), instead
            of normalising the sum (*post-norm*, as in the paper of 2017).
        eps: Of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        activation: Activation = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, hidden, dropout, activation)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map tokens [N,T,width] to as many.

        Args:
            tokens: [N,T,width].
            position: Is added to queries and keys, broadcast to [N,T,width].
            padding: Tokens that do not exist, True in [N,T]: none reads them.
            mask: Pairs that may not meet, True in [T,T] or [N,T,T].
        """

        def read(x: Tensor) -> Tensor:
            placed = _placed(x, position)
            return self.self_attn(placed, placed, x, padding=padding, mask=mask)

        x = _add(tokens, read, self.norm1, self.dropout, self.norm_first)
        return _add(x, self.feed_forward, self.norm2, self.dropout, self.norm_first)


class DecoderLayer(nn.Module):
    """Let queries read from each other, then from a memory, then change each of them alone.

    Arguments as of :class:`EncoderLayer`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        activation: Activation = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = MultiHeadAttention(width, heads, dropout)
        self.multihead_attn = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, hidden, dropout, activation)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.norm3 = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        position: Tensor | None = None,
        memory_position: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map queries [N,Q,width] to as many.

        Args:
            queries: [N,Q,width].
            memory: What they read from, [N,T,width].
            position: Is added to the queries where it is decided who reads whom, broadcast to
                [N,Q,width].
            memory_position: As well, of the memory, broadcast to [N,T,width].
            padding: Tokens of the memory that do not exist, True in [N,T].
            mask: Pairs of queries that may not meet, True in [Q,Q] or [N,Q,Q].
        """
        keys = _placed(memory, memory_position)

        def talk(x: Tensor) -> Tensor:
            placed = _placed(x, position)
            return self.self_attn(placed, placed, x, mask=mask)

        def read(x: Tensor) -> Tensor:
            return self.multihead_attn(_placed(x, position), keys, memory, padding=padding)

        x = _add(queries, talk, self.norm1, self.dropout, self.norm_first)
        x = _add(x, read, self.norm2, self.dropout, self.norm_first)
        return _add(x, self.feed_forward, self.norm3, self.dropout, self.norm_first)


class Encoder(nn.Module):
    """Apply encoder layers one after the other.

    Args:
        layers: To apply.
        norm: At the end; pre-norm needs one, since nothing has normalised the sum.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Identity() if norm is None else norm

    def forward(
        self,
        tokens: Tensor,
        position: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map tokens [N,T,width] to as many; arguments as of :class:`EncoderLayer`."""
        for layer in self.layers:
            tokens = layer(tokens, position, padding=padding, mask=mask)
        return self.norm(tokens)


class Decoder(nn.Module):
    """Apply decoder layers one after the other, and return what each of them said.

    Args:
        layers: To apply.
        norm: Of what each of them says; the next layer reads it without.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Identity() if norm is None else norm

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        position: Tensor | None = None,
        memory_position: Tensor | None = None,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return [layers,N,Q,width], the last layer last; arguments as of :class:`DecoderLayer`."""
        said = []
        for layer in self.layers:
            queries = layer(queries, memory, position, memory_position, padding=padding, mask=mask)
            said.append(self.norm(queries))
        return torch.stack(said)


def _placed(tokens: Tensor, position: Tensor | None) -> Tensor:
    return tokens if position is None else tokens + position


def _add(
    x: Tensor,
    part: Callable[[Tensor], Tensor],
    norm: nn.Module,
    dropout: nn.Module,
    norm_first: bool,
) -> Tensor:
    """Add what a part makes of the tokens, and normalise before it or after it."""
    return x + dropout(part(norm(x))) if norm_first else norm(x + dropout(part(x)))
