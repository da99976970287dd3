"""Show a bar where it is asked for or watched, and nowhere else."""

import io
import sys

import pytest
import torch
from torch import nn

from labs.ablation import ablate
from labs.progress import bar
from labs.train import fit


class Stream(io.StringIO):
    """Keep what is written, and say whether it is a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Notebook(Stream):
    """Stand for the stream of a notebook's kernel."""

    __module__ = "ipykernel.iostream"


def train(progress):
    model = nn.Linear(2, 2)
    batches = [(torch.rand(3, 2), torch.tensor([0, 1, 0]))]
    fit(model, batches, torch.optim.SGD(model.parameters(), 0.1), progress=progress)


def score(width):
    return float(width)


def study(progress):
    ablate(score, {"width": 1}, "width", [1, 2], range(2), progress=progress)


@pytest.mark.parametrize("work", [train, study])
@pytest.mark.parametrize(
    ("progress", "stream", "environment", "shown"),
    [
        (None, Stream(True), None, True),
        (None, Stream(False), None, False),
        (None, Notebook(False), None, True),
        (True, Stream(False), None, True),
        (False, Stream(True), None, False),
        (True, Stream(True), "1", False),
        (None, Stream(True), "true", False),
        (True, Stream(True), "0", True),
        (True, Stream(True), "", True),
    ],
)
def test_a_bar_shows_where_it_should(monkeypatch, work, progress, stream, environment, shown):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if environment is not None:
        monkeypatch.setenv("TQDM_DISABLE", environment)
    fresh = type(stream)(stream.terminal)
    monkeypatch.setattr(sys, "stderr", fresh)
    work(progress)
    assert bool(fresh.getvalue()) == shown
    if shown:
        assert ("epochs" if work is train else "width") in fresh.getvalue()


@pytest.mark.parametrize("work", [train, study])
def test_progress_is_true_false_or_none(work):
    with pytest.raises(TypeError, match="progress: expected True, False or None, got 1"):
        work(1)


def test_a_bar_counts_from_what_is_done(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with bar(None, True, "work", total=4, done=3) as shown:
        shown.update()
        assert (shown.n, shown.total, shown.leave) == (4, 4, False)
