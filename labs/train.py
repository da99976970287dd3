"""Train a network: one function, no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from labs.evaluate import evaluating
from labs.progress import bar

Loss = Callable[[nn.Module, Any], Tensor]
Score = Callable[[nn.Module], Mapping[str, float]]
Watch = Callable[[nn.Module, int], object]


@dataclass(frozen=True)
class History:
    """Hold what a run recorded: one record per step taken, one per epoch scored."""

    steps: tuple[Mapping[str, float], ...]
    scores: tuple[Mapping[str, float], ...]
    interrupted: bool = False

    def table(self) -> pd.DataFrame:
        """Return one row per step: ``epoch``, ``step``, ``loss``, ``lr``."""
        return pd.DataFrame(self.steps, columns=["epoch", "step", "loss", "lr"])

    def score_table(self) -> pd.DataFrame:
        """Return one row per epoch: ``epoch`` and whatever ``score`` returned."""
        return pd.DataFrame(self.scores)

    def __repr__(self) -> str:
        if not self.steps:
            return "History(no step taken)"
        first, last = self.steps[0]["loss"], self.steps[-1]["loss"]
        end = ", interrupted" if self.interrupted else ""
        return f"History({len(self.steps)} steps, loss {first:.3g} -> {last:.3g}{end})"


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross entropy of ``(images [n,C,H,W], labels [n])`` on the model's device."""
    images, labels = batch
    home = next(model.parameters()).device
    return nn.functional.cross_entropy(model(images.to(home)), labels.to(home))


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    epochs: int = 1,
    loss: Loss = cross_entropy,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    score: Score | None = None,
    watch: Watch | None = None,
    progress: bool | None = None,
) -> History:
    """Train the model in place; Ctrl-C ends the run and keeps everything recorded so far.

    Modules that you put in eval mode (a frozen backbone's batch norms) stay in eval mode. It draws
    no random number of its own: the run is the plain loop of forward, backward and step.

    Args:
        model: The network, in train mode, on the device it is to be trained on.
        batches: One epoch of batches: a ``DataLoader`` or a list, not a used-up generator.
        optimizer: Steps once per batch.
        epochs: How often to go through ``batches``, at least 1.
        loss: ``loss(model, batch)`` returns one finite scalar to minimise.
        scheduler: Steps once per batch, after the optimizer.
        score: ``score(model)`` after every epoch, in eval mode and without gradients.
        watch: ``watch(model, step)`` while the gradients are fresh, before the optimizer uses
            them: the place for ``gradient_health`` or for clipping.
        progress: Whether to show a bar of the epochs on stderr; None shows it on a terminal and in
            a notebook only. ``TQDM_DISABLE=1`` in the environment silences it.

    Returns:
        The history of the run.

    Raises:
        TypeError: When ``progress`` is not a bool or None.
        ValueError: When ``epochs`` < 1, ``batches`` is empty, or the model is in eval mode.
        FloatingPointError: When the loss is not finite. The weights are those before that step;
            but the forward pass has run, so batch norms in train mode have already mixed that
            batch into their running statistics.
    """
    if epochs < 1 or not model.training:
        raise ValueError(
            f"fit: expected epochs >= 1 and a model in train mode, got epochs={epochs} and "
            f"training={model.training}; call model.train() first"
        )
    steps: list[Mapping[str, float]] = []
    scores: list[Mapping[str, float]] = []
    try:
        for epoch in bar(range(epochs), progress, "epochs"):
            for batch in batches:
                optimizer.zero_grad(set_to_none=True)
                value = loss(model, batch)
                _refuse_bad_loss(value, len(steps))
                value.backward()
                if watch is not None:
                    watch(model, len(steps))
                rate = optimizer.param_groups[0]["lr"]
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                record = {"epoch": epoch, "step": len(steps), "loss": value.item(), "lr": rate}
                steps.append(record)
            if not steps:
                raise ValueError("fit: `batches` gave no batch; is it a generator already used up?")
            if score is not None:
                with evaluating(model):
                    scores.append({"epoch": epoch, **score(model)})
    except KeyboardInterrupt:
        return History(tuple(steps), tuple(scores), interrupted=True)
    return History(tuple(steps), tuple(scores))


def _refuse_bad_loss(value: Tensor, step: int) -> None:
    if value.numel() != 1:
        raise ValueError(
            f"fit: expected one scalar loss, got shape {tuple(value.shape)}; use .mean()"
        )
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"fit: the loss is {value.item()} at step {step}; find the layer with "
            "labs.hooks.first_bad(model, images)"
        )
