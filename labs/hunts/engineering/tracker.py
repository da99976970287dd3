"""Check a tracker: everything that a training reported is in the record, where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from labs.hunts import Verdict, examine

Event = tuple[int, float, float | None]  # step, training loss, validation score if there was one
Row = dict[str, Any]
_LOSS, _SCORE = "train/loss", "val/accuracy"


class _OfflineRun:
    """Keep rows by the rule of ``wandb.Run.log``: one row per step, and steps only go forward.

    A test holds it to the rows that wandb itself writes.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.step = 0
        self._open: Row = {}

    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        """Add values to the open row.

        Args:
            data: Names and values.
            step: Closes the open row when it is larger than :attr:`step`. When it is smaller, the
                values are dropped, as W&B drops them.
            commit: Closes the row after this call. By default only a call without ``step`` does.
        """
        if step is not None and step < self.step:
            return
        if step is not None and step > self.step:
            self._close()
            self.step = step
        self._open |= data
        if commit or (commit is None and step is None):
            self._close()
            self.step += 1

    def finish(self) -> None:
        """Close the last row."""
        self._close()

    def _close(self) -> None:
        if self._open:
            self.rows.append({**self._open, "_step": self.step})
        self._open = {}


Follow = Callable[[_OfflineRun, Iterable[Event]], object]


def check_tracker(follow: Follow) -> Verdict:
    """Check a function that logs a training while it goes on.

    Args:
        follow: ``follow(run, training)`` goes once through ``training``, an iterator of
            ``(step, loss, score)`` with ``score`` None where nothing was validated, and calls
            ``run.log(data, step=None, commit=None)``, which keeps rows as ``wandb.Run.log`` does.
            The names are ``train/loss`` and ``val/accuracy``. A row counts for its own step, or
            for the number in it whose name ends in ``step``.

    Returns:
        The verdict of six probes: on losses, on scores and their steps, on other plans of
        validation, on a crash, and on what was never measured.
    """
    return examine(
        "the tracker",
        follow,
        {
            "every training loss is in the record, at its step": _losses_are_there,
            "every validation score is in the record": _scores_are_there,
            "each score stands at the step where it was measured": _scores_stand_right,
            "all this holds for epochs of any length": _other_plans,
            "what came before a crash is in the record": _before_a_crash,
            "nothing is in the record that was not measured": _nothing_invented,
        },
    )


def _training(lengths: Iterable[int], validate_every: int = 1) -> list[Event]:
    """Return a training with epochs of these lengths; no two of its numbers are equal."""
    events: list[Event] = []
    for epoch, length in enumerate(lengths, 1):
        for left in reversed(range(length)):
            step = len(events)
            validated = left == 0 and epoch % validate_every == 0
            events.append((step, 2 / (step + 2), 0.5 + step / 1000 if validated else None))
    return events


def _record(follow: Follow, events: Iterable[Event]) -> list[Row]:
    run = _OfflineRun()
    try:
        follow(run, iter(events))
    finally:
        run.finish()
    return run.rows


def _found(rows: list[Row], name: str) -> list[tuple[int, Any]]:
    return [(_step(row), row[name]) for row in rows if name in row]


def _step(row: Row) -> int:
    own = [value for key, value in row.items() if key.endswith("step") and key != "_step"]
    return int(own[0] if own else row["_step"])


def _expected(events: Iterable[Event]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    events = list(events)
    scores = [(step, score) for step, _, score in events if score is not None]
    return [(step, loss) for step, loss, _ in events], scores


def _losses_are_there(follow: Follow) -> str:
    events = _training([4, 4, 4])
    expected, got = _expected(events)[0], _found(_record(follow, events), _LOSS)
    kept = len(set(expected) & set(got))
    assert kept == len(expected), f"{kept} of {len(expected)}"
    return f"{kept} of {len(expected)}"


def _scores_are_there(follow: Follow) -> str:
    events = _training([4, 4, 4])
    expected = [score for _, score in _expected(events)[1]]
    got = [score for _, score in _found(_record(follow, events), _SCORE)]
    kept = len(set(expected) & set(got))
    assert kept == len(expected), f"{kept} of {len(expected)}"
    return f"{kept} of {len(expected)}"


def _scores_stand_right(follow: Follow) -> str:
    events = _training([4, 4, 4])
    expected, got = _expected(events)[1], _found(_record(follow, events), _SCORE)
    steps, seen = [step for step, _ in expected], [step for step, _ in got]
    assert got == expected, f"measured in steps {steps}, found in steps {seen}"
    return f"in steps {seen}"


def _other_plans(follow: Follow) -> str:
    plans = {
        "one step each": _training([1, 1, 1]),
        "two, five and one": _training([2, 5, 1]),
        "validated every second epoch": _training([3, 3, 3, 3, 3], validate_every=2),
        "never validated": _training([3, 3], validate_every=9),
        "a score of zero": [(0, 1.0, None), (1, 0.5, 0.0), (2, 0.4, None), (3, 0.3, 0.0)],
    }
    for name, events in plans.items():
        _assert_complete(_record(follow, events), events, f"epochs: {name}")
    resumed = [(step + 1000, loss, score) for step, loss, score in _training([3, 3])]
    _assert_complete(_record(follow, resumed), resumed, "resumed in step 1000")
    return f"{len(plans) + 1} other plans, all complete"


def _before_a_crash(follow: Follow) -> str:
    events, run = _training([4, 4, 4]), _OfflineRun()

    def crashing() -> Iterator[Event]:
        yield from events[:9]
        raise InterruptedError("the power went")

    try:
        follow(run, crashing())
    except InterruptedError:
        pass
    else:
        raise AssertionError("the error of the training did not reach the caller")
    run.finish()
    _assert_complete(run.rows, events[:9], "two epochs and a step")
    return "two epochs and a step, all there"


def _nothing_invented(follow: Follow) -> str:
    events = _training([4, 4, 4])
    rows = _record(follow, events)
    losses, scores = _expected(events)
    for name, expected in ((_LOSS, losses), (_SCORE, scores)):
        values, got = [v for _, v in expected], [v for _, v in _found(rows, name)]
        extra = [v for v in got if v not in values]
        assert not extra, f"{name} holds {extra[0]!r}, which was not measured"
        assert len(got) == len(set(got)), f"{name} holds a value more than once"
    names = {key for row in rows for key in row if not key.endswith("step")}
    assert names <= {_LOSS, _SCORE}, f"there is also {sorted(names - {_LOSS, _SCORE})[0]!r}"
    return "nothing"


def _assert_complete(rows: list[Row], events: list[Event], plan: str) -> None:
    losses, scores = _expected(events)
    for name, expected in ((_LOSS, losses), (_SCORE, scores)):
        got = _found(rows, name)
        kept = len([pair for pair in expected if pair in got])
        assert got == expected, (
            f"{plan}: {kept} of {len(expected)} values of {name} at their steps, {len(got)} in all"
        )
