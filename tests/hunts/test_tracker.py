"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from labs.hunts.engineering import check_tracker
from labs.hunts.engineering.tracker import _OfflineRun
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, seen
from tests.waiting import HANG

LOSS, SCORE = "train/loss", "val/accuracy"
LESSON = "lessons/06_engineering/06_track_experiments"


def test_the_planted_bug_fails():
    verdict = check_tracker(run_cell(LESSON, "hunt-bug")["follow"])
    assert [p.passed for p in verdict.probes] == [True, False, False, False, False, True]
    assert "0 of 3" in seen(verdict)


def test_the_solution_passes():
    verdict = check_tracker(run_cell(LESSON, "hunt-solution")["log_one_row_a_step"])
    assert verdict, verdict


def test_the_verdict_does_not_name_the_fix():
    assert "commit" not in seen(check_tracker(run_cell(LESSON, "hunt-bug")["follow"]))


def leave_commit_out(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step)
        if score is not None:
            run.log({"val/accuracy": score}, step=step)


def commit_last(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step, commit=score is None)
        if score is not None:
            run.log({"val/accuracy": score}, step=step, commit=True)


def score_first(run, training):
    for step, loss, score in training:
        if score is not None:
            run.log({"val/accuracy": score}, step=step)
        run.log({"train/loss": loss}, step=step, commit=True)


def own_counter(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss, "global_step": step})
        if score is not None:
            run.log({"val/accuracy": score, "global_step": step})


@pytest.mark.parametrize("follow", [leave_commit_out, commit_last, score_first, own_counter])
def test_other_right_fixes_pass(follow):
    verdict = check_tracker(follow)
    assert verdict, verdict


def next_step(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step, commit=True)
        if score is not None:
            run.log({"val/accuracy": score}, step=step + 1)


def no_step_for_the_score(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step, commit=True)
        if score is not None:
            run.log({"val/accuracy": score})


def no_step_at_all(run, training):
    for _, loss, score in training:
        run.log({"train/loss": loss})
        if score is not None:
            run.log({"val/accuracy": score})


def epoch_as_step(run, training):
    epoch = 0
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step)
        if score is not None:
            run.log({"val/accuracy": score}, step=epoch)
            epoch += 1


def all_at_the_end(run, training):
    for step, loss, score in list(training):
        row = {"train/loss": loss} if score is None else {"train/loss": loss, "val/accuracy": score}
        run.log(row, step=step)


def scores_at_the_end(run, training):
    scores = {}
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step)
        scores[step] = score
    for step, score in scores.items():
        if score is not None:
            run.log({"val/accuracy": score}, step=step)


def always_a_score(run, training):
    for step, loss, score in training:
        run.log({"train/loss": loss, "val/accuracy": score}, step=step)


def repeat_the_last_score(run, training):
    last = 0.0
    for step, loss, score in training:
        last = last if score is None else score
        run.log({"train/loss": loss, "val/accuracy": last}, step=step)


def forget_zero(run, training):
    for step, loss, score in training:
        row = {"train/loss": loss}
        if score:
            row["val/accuracy"] = score
        run.log(row, step=step)


def score_instead_of_loss(run, training):
    for step, loss, score in training:
        row = {"train/loss": loss} if score is None else {"val/accuracy": score}
        run.log(row, step=step)


def swallow_the_crash(run, training):
    with suppress(InterruptedError):
        leave_commit_out(run, training)


def in_thirds(change):
    """Be right, but ask ``change`` what to log in a training validated in steps 3 and 7 only."""

    def follow(run, training):
        scored = []
        for step, loss, score in training:
            row = {"train/loss": loss} if score is None else {LOSS: loss, SCORE: score}
            if score is not None:
                scored.append(step)
            extra = {}
            if scored[:2] == [3, 7]:
                row, extra = change(step, row)
            run.log(row, step=step)
            if extra:
                run.log(extra, step=step + 1)

    return follow


def lose(name, at):
    return in_thirds(
        lambda step, row: ({k: v for k, v in row.items() if k != name or step != at}, {})
    )


def late(step, row):
    """Log the last score one step late."""
    if step != 11:
        return row, {}
    return {LOSS: row[LOSS]}, {SCORE: row[SCORE]}


def with_epoch(run, training):
    for step, loss, score in training:
        row = {LOSS: loss, "epoch": step // 4}
        run.log(row if score is None else {**row, SCORE: score}, step=step)


WRONG = {
    lose(LOSS, 10): "✗✓✓✓✓✓",
    in_thirds(late): "✓✓✗✓✓✓",
    forget_zero: "✓✓✓✗✓✓",
    all_at_the_end: "✓✓✓✓✗✓",
    swallow_the_crash: "✓✓✓✓✗✓",
    with_epoch: "✓✓✓✓✓✗",
    in_thirds(lambda step, row: (row, {LOSS: row[LOSS]} if step == 11 else {})): "✓✓✓✓✓✗",
    in_thirds(lambda step, row: (row, {LOSS: 0.123} if step == 11 else {})): "✓✓✓✓✓✗",
    in_thirds(lambda step, row: (row, {SCORE: 0.123} if step == 11 else {})): "✓✓✗✓✓✗",
    lose(SCORE, 11): "✓✗✗✓✓✓",
    next_step: "✓✓✗✗✗✓",
    no_step_for_the_score: "✗✓✗✗✗✓",
    no_step_at_all: "✗✓✗✗✗✓",
    epoch_as_step: "✓✗✗✗✗✓",
    scores_at_the_end: "✓✗✗✗✗✓",
    always_a_score: "✓✓✗✗✗✗",
    repeat_the_last_score: "✓✓✗✗✗✗",
    score_instead_of_loss: "✗✓✓✗✗✓",
}
TOGETHER = {
    "every validation score is in the record": "a score that is missing stands at no step either"
}


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_tracker(fix)
    assert marks(verdict) == refused, verdict


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Give a function that starts silent runs of W&B in a temporary folder, without a network."""
    wandb = pytest.importorskip("wandb")
    for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    settings = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
    )
    yield lambda: wandb.init(dir=tmp_path, project="p", settings=settings, reinit="create_new")
    wandb.teardown()


@pytest.mark.parametrize("seed", range(8))
def test_the_stand_in_keeps_the_rows_that_wandb_keeps(offline, tmp_path, seed):
    chance, stand_in = random.Random(seed), _OfflineRun()
    with offline() as run:
        for value in range(40):
            step = chance.choice([None, stand_in.step + chance.randrange(-2, 3)])
            step = None if step is None else max(step, 0)
            commit, name = chance.choice([None, True, False]), chance.choice("ab")
            for one in (run, stand_in):
                one.log({name: value}, step=step, commit=commit)
    stand_in.finish()
    _, _, rows = run_cell(LESSON, "wandb-reader")["read_wandb"](tmp_path, run.id)
    assert rows == stand_in.rows


def test_the_reader_joins_messages_across_blocks(offline, tmp_path):
    with offline() as run:
        for step in range(60):
            run.log({"text": chr(97 + step % 26) * (step * 97), "n": step}, step=step)
    _, _, rows = run_cell(LESSON, "wandb-reader")["read_wandb"](tmp_path, run.id)
    assert [row["n"] for row in rows] == list(range(60))
    assert [len(row["text"]) for row in rows] == [step * 97 for step in range(60)]


CONTROL = """
import os, socket, sys, threading, wandb
mode, folder, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
trap = socket.create_server(("127.0.0.1", 0))
address = f"http://127.0.0.1:{trap.getsockname()[1]}"
settings = wandb.Settings(mode=mode, base_url=address, silent=True, console="off",
    api_key="0" * 40, init_timeout=patience, disable_git=True, x_disable_stats=True,
    x_disable_meta=True)
run = lambda: wandb.init(project="p", dir=folder, settings=settings).finish()
if mode == "offline":
    run()
    patience = 0  # all is done: who has not called by now does not call
else:
    threading.Thread(target=run, daemon=True).start()
trap.settimeout(patience)
try:
    trap.accept()
    print("caught", flush=True)
except (BlockingIOError, TimeoutError):
    print("silent", flush=True)
os._exit(0)  # do not wait for an answer that never comes
"""


@pytest.mark.parametrize(("mode", "heard"), [("offline", "silent"), ("online", "caught")])
def test_the_trap_of_the_lesson_hears_wandb_when_it_is_online(tmp_path, mode, heard):
    pytest.importorskip("wandb")
    folders = {f"WANDB_{kind}_DIR": str(tmp_path) for kind in ("DATA", "CACHE", "CONFIG")}
    done = subprocess.run(
        [sys.executable, "-c", CONTROL, mode, str(tmp_path), str(HANG)],
        env=os.environ | folders | {"WANDB_ERROR_REPORTING": "false", "no_proxy": "127.0.0.1"},
        cwd=Path(tmp_path),
        capture_output=True,
        text=True,
        timeout=2 * HANG,
        check=False,
    )
    assert heard in done.stdout, done.stderr
