"""Check how a training run is reported: which data chose the epoch, and which measured it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import mapping_of, number_of

_VALID_SCORES = (0.30, 0.55, 0.90, 0.60, 0.75, 0.40)
_TEST_SCORES = (0.50, 0.65, 0.40, 0.95, 0.70, 0.60)  # best in another epoch than above
_CHOSEN = 2  # the best of _VALID_SCORES
_TRIALS, _COIN_EPOCHS, _COIN_IMAGES = 8, 30, 200
_MOST_OPTIMISM = 0.035  # chance is 0.5 +- 0.013 over the trials; the best epoch is 0.07 above it


class _Events(list[tuple[str, int, bool]]):
    """List what happened: ``"train"``, ``"valid"`` or ``"test"``, the epoch, and the mode."""

    def __deepcopy__(self, _memo: object) -> _Events:
        return self  # a copy of the network still reports to the same list


class _Scripted(nn.Module):
    """Know nothing but its age in epochs, and answer by a script: ``answers[epoch, image]``."""

    def __init__(self, answers: Tensor, first_test: int) -> None:
        super().__init__()
        self.age = nn.Parameter(torch.zeros(()))
        self.answers, self.first_test = answers, first_test
        self.events = _Events()

    @property
    def epoch(self) -> int:
        """Return the epoch that these weights are of, from 0."""
        return round(self.age.item()) - 1

    def forward(self, images: Tensor) -> Tensor:
        """Map images [n,1,1,1], which hold their own number, to one-hot answers [n,2]."""
        rows = images.flatten().round().long()
        for name, seen in [("valid", rows < self.first_test), ("test", rows >= self.first_test)]:
            if seen.any():
                self.events.append((name, self.epoch, self.training))
        answers = self.answers[self.epoch, rows]
        answers = 1 - answers if self.training else answers  # dropout, batch norm: not the same net
        return nn.functional.one_hot(answers, 2).float()


@dataclass(frozen=True)
class _Data:
    """Hold what ``labs.evaluate.accuracy`` needs: images [n,1,1,1] and labels [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Stage:
    """Hold the actors of one run."""

    net: _Scripted
    valid: _Data
    test: _Data
    epochs: int

    def run(self, report: Report) -> Mapping[str, float]:
        """Call the candidate, and return what it reports."""
        answer = report(self.net, _train_one_epoch, self.valid, self.test, self.epochs)
        result = {str(k): number_of(v, str(k)) for k, v in mapping_of(answer, "the report").items()}
        lacking = {"epoch", "valid", "test"} - set(result)
        assert not lacking, f"the report lacks {', '.join(sorted(lacking))}"
        return result


TrainOneEpoch = Callable[[nn.Module], object]
Report = Callable[[nn.Module, TrainOneEpoch, _Data, _Data, int], Mapping[str, float]]


def check_report(train_and_report: Report) -> Verdict:
    """Check that the validation set chooses the epoch, and that the test set only measures it.

    Args:
        train_and_report: ``train_and_report(net, train_one_epoch, valid, test, epochs)`` calls
            ``train_one_epoch(net)`` ``epochs`` times. It chooses the epoch with the best validation
            accuracy, leaves its weights in ``net``, and only then measures ``net`` on the test set.
            It returns a dict with ``epoch`` (from 0), ``valid`` and ``test`` (accuracies of that
            epoch). ``valid`` and ``test`` have ``images`` and ``labels``.

    Returns:
        The verdict of seven probes on a network that answers by a script: on labels drawn by coin,
        other test labels, the epoch, the scores, the weights, the order of events, the training.
    """
    return examine(
        "the report",
        train_and_report,
        {
            "labels drawn by coin: the mean report is 50 %": _no_optimism,
            "other test labels: the same epoch is chosen": _deaf_to_test,
            "the epoch is the best one on the validation set": _epoch_is_right,
            "both scores are those of the epoch that is reported": _scores_are_right,
            "the network is left as it was in that epoch": _weights_are_right,
            "the test set is opened after the choice, for one set of weights": _order_is_right,
            "it trains every epoch, in train mode": _trains_all,
        },
    )


def _train_one_epoch(net: nn.Module) -> None:
    assert isinstance(net, _Scripted)
    with torch.no_grad():
        net.age += 1  # type: ignore[misc]  # in place, as optimizers do
    net.events.append(("train", net.epoch, net.training))


def _stage(flip_test: bool = False) -> _Stage:
    """Build a run whose accuracies in each epoch are VALID_SCORES and TEST_SCORES."""
    n = 20
    scores = torch.tensor([_VALID_SCORES, _TEST_SCORES]).T  # [epochs,2]
    right = torch.arange(n) < (scores * n).round()[..., None]  # [epochs,2,n]
    answers = right.flatten(1).long()  # every label is 1
    labels = torch.ones(2 * n, dtype=torch.long)
    if flip_test:
        labels[n:] = 0
    return _with(answers, labels, n)


def _coins(trial: int) -> _Stage:
    generator = torch.Generator().manual_seed(trial)
    answers = torch.randint(2, (_COIN_EPOCHS, 2 * _COIN_IMAGES), generator=generator)
    labels = torch.randint(2, (2 * _COIN_IMAGES,), generator=generator)
    return _with(answers, labels, _COIN_IMAGES)


def _with(answers: Tensor, labels: Tensor, n: int) -> _Stage:
    images = torch.arange(2 * n).float()[:, None, None, None]  # [2n,1,1,1]
    valid, test = _Data(images[:n], labels[:n]), _Data(images[n:], labels[n:])
    return _Stage(_Scripted(answers, n), valid, test, len(answers))


def _no_optimism(report: Report) -> str:
    reported = [float(_coins(trial).run(report)["test"]) for trial in range(_TRIALS)]
    mean = sum(reported) / _TRIALS
    assert abs(mean - 0.5) < _MOST_OPTIMISM, (
        f"{mean:.1%} over {_TRIALS} runs in which there was nothing to learn"
    )
    return "it is"


def _deaf_to_test(report: Report) -> str:
    as_is, flipped = (int(_stage(flip).run(report)["epoch"]) for flip in (False, True))
    assert as_is == flipped, f"epoch {as_is} with these test labels, epoch {flipped} with others"
    return "it is"


def _epoch_is_right(report: Report) -> str:
    got = int(_stage().run(report)["epoch"])
    seen = ", ".join(f"{score:.2f}" for score in _VALID_SCORES)
    assert got == _CHOSEN, f"validation scores {seen}: epoch {got} was reported"
    return "it is"


def _scores_are_right(report: Report) -> str:
    result = _stage().run(report)
    epoch = int(result["epoch"])
    for name, scores in [("valid", _VALID_SCORES), ("test", _TEST_SCORES)]:
        got, expected = float(result[name]), scores[epoch]
        assert abs(got - expected) < 1e-6, (
            f"epoch {epoch} scores {expected:.2f} on the {name} set, but {got:.2f} was reported"
        )
    return "they are"


def _weights_are_right(report: Report) -> str:
    stage = _stage()
    epoch = int(stage.run(report)["epoch"])
    assert stage.net.epoch == epoch, (
        f"epoch {epoch} was reported, but the weights are those of epoch {stage.net.epoch}"
    )
    return "it is"


def _order_is_right(report: Report) -> str:
    stage = _stage()
    stage.run(report)
    events = stage.net.events
    last = max((i for i, (name, _, _) in enumerate(events) if name == "train"), default=-1)
    opened = [(i, epoch) for i, (name, epoch, _) in enumerate(events) if name == "test"]
    assert opened, "it was never opened"
    early = [epoch for i, epoch in opened if i < last]
    assert not early, f"opened while training, first after epoch {early[0]}"
    weights = {epoch for _, epoch in opened}
    assert len(weights) == 1, f"opened for the weights of {len(weights)} epochs"
    return "it is"


def _trains_all(report: Report) -> str:
    stage = _stage()
    stage.run(report)
    trained = [(epoch, mode) for name, epoch, mode in stage.net.events if name == "train"]
    assert len(trained) == stage.epochs, f"{len(trained)} of {stage.epochs} epochs"
    asleep = [epoch for epoch, mode in trained if not mode]
    assert not asleep, f"epoch {asleep[0]} ran in eval mode"
    return "it does"
