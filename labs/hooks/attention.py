"""See which token reads which, head by head, and what a whole stack lets through."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from labs.hooks.layers import bare, eager, find_layers
from labs.models.attention import MultiHeadAttention

_KINDS = (MultiHeadAttention, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMaps:
    """Hold the weights of the watched layers; ``maps["encoder.0"]`` reads those of one.

    They are detached copies, [N,heads,Q,K], without dropout: each row adds up to 1.
    """

    _calls: Mapping[str, list[Tensor]]

    def __getitem__(self, layer: str) -> Any:
        """Return the weights of a layer, [N,heads,Q,K], or a list when it ran several times.

        Raises:
            KeyError: When the layer was not watched, or did not run.
        """
        if not self._calls.get(layer):
            ran = ", ".join(self.keys()) or "none"
            raise KeyError(
                f"layer {layer!r} was not watched, or did not run; those that ran: {ran}"
            )
        calls = self._calls[layer]
        return calls[0] if len(calls) == 1 else calls

    def keys(self) -> list[str]:
        """Return the names of the watched layers that ran, in the order of the model."""
        return [layer for layer, calls in self._calls.items() if calls]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def table(self) -> pd.DataFrame:
        """Return one row per head: how widely it reads.

        Returns:
            Columns ``layer``, ``call``, ``head`` (both from 0), ``queries``, ``keys``, ``entropy``
            (nats, mean over images and queries; the logarithm of ``keys`` when all are read alike)
            and ``largest``, the mean of the largest weight of a query.
        """
        rows = []
        for layer in self:
            for call, weights in enumerate(self._calls[layer]):
                entropy = torch.special.entr(weights.float()).sum(-1).mean((0, 2))
                largest = weights.float().amax(-1).mean((0, 2))
                for head in range(weights.shape[1]):
                    told = {"entropy": entropy[head].item(), "largest": largest[head].item()}
                    size = dict(zip(("queries", "keys"), weights.shape[2:], strict=True))
                    rows.append({"layer": layer, "call": call, "head": head, **size, **told})
        columns = ["layer", "call", "head", "queries", "keys", "entropy", "largest"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        ran = [f"{name or 'the model'} {list(self._calls[name][0].shape)}" for name in self]
        return f"AttentionMaps({', '.join(ran) or 'none yet'})"


@contextmanager
def capture_attention(model: nn.Module, *layers: str) -> Iterator[AttentionMaps]:
    """Keep how much each token reads of each other while the block runs.

    ::

        with capture_attention(vit) as maps:
            vit(images)
        maps["encoder.layers.0.self_attn"].shape  # [N,heads,T,T]

    The model computes what it computes without it; the weights are computed once more, from what a
    layer is given. All hooks are gone after the block, also when the model raises.

    Args:
        model: Any module with :class:`labs.models.MultiHeadAttention` or
            ``torch.nn.MultiheadAttention`` inside. It is not called, and its mode is left alone.
        layers: Names as in ``model.named_modules()``, or patterns such as ``"decoder.*"``; of what
            they stand for the attention layers are watched. All of the model when none is named.

    Yields:
        The weights. They fill up while the model runs.

    Raises:
        KeyError: When a layer does not exist; the message names the nearest ones.
        TypeError: When a named layer is no attention, or nothing in the model is.
    """
    known = find_layers(model, layers or ("",))
    if not layers:
        known = dict(bare(model).named_modules())
    found = {name: part for name, part in known.items() if isinstance(part, _KINDS)}
    wrong = [name for name in layers if name in known and name not in found]
    if wrong or not found:
        got = f"{wrong[0]!r}, a {type(known[wrong[0]]).__name__}" if wrong else "none"
        raise TypeError(
            "capture_attention: expected layers of labs.models.MultiHeadAttention or "
            f"torch.nn.MultiheadAttention, got {got}; other attention has no weights to ask for"
        )
    calls: dict[str, list[Tensor]] = {name: [] for name in found}
    handles = []
    try:
        with eager():
            for name, module in found.items():
                keep = partial(_keep, calls[name])
                handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
            yield AttentionMaps(calls)
    finally:
        for handle in handles:
            handle.remove()


def attention_rollout(maps: Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Return how much of each first token reaches each token at the end of a stack, [N,T,T].

    After Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928: the heads of a layer are
    averaged, the shortcut around it counts as reading from oneself, and the layers are multiplied.
    It follows where tokens could come from; what values and feed-forward parts make of them it does
    not see.

    Args:
        maps: The weights of each layer, [N,heads,T,T], the first layer first.
        residual: Share of the shortcut, in [0, 1].

    Raises:
        ValueError: When there are no layers, or one does not read from its own tokens.
    """
    shapes = {tuple(weights.shape[-2:]) for weights in maps}
    if len(shapes) != 1 or len({*next(iter(shapes))}) != 1:
        raise ValueError(
            "attention_rollout: expected layers of as many queries as keys, the same in all, got "
            f"{sorted(shapes)}; leave cross-attention out"
        )
    whole: Tensor | None = None
    for weights in maps:
        mean = weights.mean(1)
        same = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        step = (1 - residual) * mean + residual * same
        step = step / step.sum(-1, keepdim=True)  # a row that may read nothing keeps itself
        whole = step if whole is None else step @ whole
    assert whole is not None
    return whole


@torch.no_grad()
def _keep(calls: list[Tensor], module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    if isinstance(module, MultiHeadAttention):
        given.pop("value", None)
        calls.append(module.weights(**given).detach())
        return
    assert isinstance(module, nn.MultiheadAttention)
    given |= {"need_weights": True, "average_attn_weights": False}
    training, module.training = module.training, False  # else dropout would draw, and be drawn
    try:
        weights = module.forward(**given)[1]
    finally:
        module.training = training
    assert weights is not None
    calls.append(weights if weights.ndim == 4 else weights[None])
