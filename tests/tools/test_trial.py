"""A trial must tell a claim that fell from one that held and from one that was never made."""

import json
from dataclasses import asdict, replace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import kept, lesson, trial
from tools.kept import Condition, Result, Store, Trials
from tools.lesson import Lesson, current_stamp
from tools.trial import Fate, Made, Trial, errors_in, judge, made_in

LESSON = """\
# %% [markdown]
# # Learn

# %%
import torch
from labs.claims import claim
from labs.train import fit

torch.manual_seed(0)
net = torch.nn.Linear(2, 2)
before = net.weight.detach().clone()
batch = torch.randn(8, 2), torch.arange(8) % 2
history = fit(net, [batch], torch.optim.SGD(net.parameters(), 0.1))

# %%
claim("the weights have moved", not torch.equal(net.weight, before))

# %%
claim("one and one is two", 1 + 1 == 2)

# %%
moved = (net.weight - before).abs().max().item()
assert moved > 0, "nothing to divide by\\nand more"
claim(f"the largest move is {moved:.3f}", moved > 0)
claim("it is divided by itself", moved / moved == 1)

# %% [markdown]
# The end.

# %%
claim("the lesson has come to its end", True)
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Build a project with one lesson that was never executed."""
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    monkeypatch.setattr(lesson, "LESSONS", tmp_path / "lessons")
    (tmp_path / "lessons/00_stage").mkdir(parents=True)
    (tmp_path / "lessons/00_stage/01_learn.py").write_text(LESSON)
    return Lesson("lessons/00_stage/01_learn")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "kept" / "results.jsonl")


def shown(*texts, **facts):
    return new_code_cell("pass", outputs=[printed(text) for text in texts], **facts)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def raised(name, value):
    return new_output("error", ename=name, evalue=value, traceback=[])


# ------------------------------------------------------------------------- reading what was shown


def test_claims_are_read_with_the_number_of_their_cell():
    book = new_notebook(
        cells=[
            shown("✓ planted\n"),
            new_markdown_cell("✓ no claim"),
            shown("✓ first\nnot a claim\n", "✓ sec", "ond\n"),
            shown("✗ third: no longer holds here; measured: 3\n", "✗ just a cross\n"),
        ]
    )
    found = [Made(0, "first", True), Made(0, "second", True), Made(1, "third", False)]
    assert [*made_in(book)] == [Made(-1, "planted", True), *found]
    assert next(made_in(book, before=0)) == Made(0, "planted", True)


def test_a_claim_on_stderr_is_none():
    cell = new_code_cell("pass", outputs=[printed("✓ aside\n", "stderr")])
    assert [*made_in(new_notebook(cells=[cell]), before=0)] == []


def test_errors_are_read_in_one_line_and_those_that_are_meant_are_left_out():
    cells = [
        new_code_cell("pass", outputs=[raised("KeyError", "\x1b[31m'a'\x1b[0m\nand more")]),
        new_code_cell("pass", outputs=[raised("Stop", "")]),
        new_code_cell("x", outputs=[raised("A", "b")], metadata={"tags": ["raises-exception"]}),
    ]
    assert errors_in(new_notebook(cells=cells), before=0) == {0: "KeyError: 'a'", 1: "Stop:"}


# ----------------------------------------------------------------------------------- judgement


WANTED = [Made(1, "a", True), Made(1, "b is 3", True), Made(2, "c", True)]


def test_a_claim_that_holds_is_green_and_one_that_falls_red():
    made = (Made(1, "a", True), Made(1, "b is 5", False), Made(2, "c", True))
    assert judge(WANTED, Trial(made)) == [
        Fate(1, "a", "green"),
        Fate(1, "b is 3", "red"),  # the same claim with another number in it
        Fate(2, "c", "green"),
    ]


def test_a_claim_that_was_never_made_is_an_error_with_the_last_reason_before_it():
    errors = {0: "ValueError: first", 1: "KeyError: second", 3: "NameError: later"}
    assert judge(WANTED, Trial((Made(1, "a", True),), errors)) == [
        Fate(1, "a", "green"),
        Fate(1, "b is 3", "error", "KeyError: second"),
        Fate(2, "c", "error", "KeyError: second"),
    ]


def test_a_claim_that_vanishes_without_an_error_is_none_that_holds():
    later = Trial((Made(1, "a", True), Made(1, "b is 3", True)), {3: "NameError: later"})
    (fate,) = judge(WANTED, later)[2:]
    assert (fate.fate, fate.why) == ("error", "the cell ended without making it")


def test_claims_that_are_made_only_here_count_for_nothing():
    made = (*WANTED, Made(2, "another", True), Made(7, "new", True))
    assert [fate.text for fate in judge(WANTED, Trial(made))] == ["a", "b is 3", "c"]


# --------------------------------------------------------------------------------- real kernels


@pytest.mark.slow
def test_a_fault_turns_what_needs_it_red_and_leaves_arithmetic_green(small):
    texts = [
        (1, "the weights have moved"),
        (2, "one and one is two"),
        (3, "the largest move is 0.118"),
        (3, "it is divided by itself"),
        (4, "the lesson has come to its end"),
    ]
    wanted = [Made(*text, True) for text in texts]
    fates = judge(wanted, trial.run(small, {}, PLANT))
    assert [(fate.cell, fate.text) for fate in fates] == texts
    assert [fate.fate for fate in fates] == ["red", "green", "error", "error", "green"]
    assert [fate.why for fate in fates[2:4]] == ["AssertionError: nothing to divide by"] * 2
    assert not small.notebook.exists()


PLANT = "from tools.faults import plant; plant('learning off')"


@pytest.mark.slow
def test_a_kernel_that_dies_leaves_the_rest_unmade_and_one_that_plants_nothing_is_refused(small):
    source = "# %%\nprint('✓ a')\n\n# %%\nimport os\nos._exit(1)\n\n# %%\nprint('✓ b')\n"
    small.source.write_text(source)
    seen = []
    died = trial.run(small, {}, started=seen.append)
    assert died.made == (Made(0, "a", True),)
    assert [*died.errors] == [1]
    assert died.errors[1].startswith("DeadKernelError: ")
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match=r"01_learn: nothing was changed: KeyError: 'x'"):
        trial.run(small, {}, "{}['x']")


# ------------------------------------------------------------------------- keeping and resuming


class Runs:
    """Stand in for ``tools.trial.run``: note each call, and answer from a table."""

    def __init__(self):
        self.calls = []
        self.answers = {"": Trial((Made(0, "a", True), Made(1, "b", False), Made(2, "c", True)))}

    def __call__(self, one, environment, first="", started=None):
        self.calls.append((one.name, first))
        answer = self.answers.get(first, self.answers[""])
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def runs(monkeypatch):
    stand_in = Runs()
    monkeypatch.setattr(kept, "run", stand_in)
    return stand_in


A, B = Condition("fault a", first="a"), Condition("fault b", first="b")
NAME = "lessons/00_stage/01_learn"


def test_what_is_kept_is_not_run_again_until_something_changes(small, store, runs):
    runs.answers["a"] = Trial((Made(0, "a", False), Made(2, "c", True)))
    (first,) = Trials(store, 1).make([(A, small)])
    assert runs.calls == [(NAME, ""), (NAME, "a")]
    assert [(f.text, f.fate) for f in first.fates] == [("a", "red"), ("c", "green")]

    again = Store(store.path)
    assert Trials(again, 1).make([(A, small)]) == [first]
    assert len(runs.calls) == 2
    Trials(again, 1).make([(replace(A, depends="its code"), small)])
    Trials(again, 1).make([(replace(A, environment={"X": "1"}), small)])
    assert runs.calls[2:] == [(NAME, "a")] * 2
    small.source.write_text(LESSON + "\n# %%\n1\n")
    Trials(again, 1).make([(A, small)])
    assert runs.calls[4:] == [(NAME, ""), (NAME, "a")]


def test_what_does_not_hold_where_nothing_is_different_is_not_asked_for(small, store, runs):
    (result,) = Trials(store, 1).make([(A, small)])
    assert [fate.text for fate in result.fates] == ["a", "c"]
    assert [fate.fate for fate in store.find(Condition(""), small).fates] == [
        "green", "red", "green",
    ]  # fmt: skip


def test_a_fresh_notebook_says_which_claims_there_are(small, store, runs):
    book = new_notebook(cells=[shown("✓ from the notebook\n")])
    book.metadata["labs_stamp"] = current_stamp(small)
    small.notebook.write_text(json.dumps(book))
    (result,) = Trials(store, 1).make([(A, small)])
    assert runs.calls == [(NAME, "a")]
    assert [fate.text for fate in result.fates] == ["from the notebook"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_done_and_goes_on_from_it(small, store, runs, capsys, jobs):
    trials = Trials(store, jobs)
    trials.make([(A, small)])
    runs.answers["b"] = KeyboardInterrupt()
    assert [one.condition for one in trials.make([(A, small), (B, small)])] == ["fault a"]
    assert "stopped; what was finished is kept" in capsys.readouterr().err
    del runs.answers["b"]
    runs.calls.clear()
    found = Trials(Store(store.path), jobs).make([(A, small), (B, small)])
    assert [one.condition for one in found] == ["fault a", "fault b"]
    assert runs.calls == [(NAME, "b")]


def test_a_process_that_was_ended_by_ctrl_c_gives_no_result(small, store, monkeypatch):
    ended = []
    monkeypatch.setattr(kept, "_end", ended.append)
    trials = Trials(store, 1)

    def stopped(one, environment, first="", started=None):
        started(42)
        trials._stop()
        return Trial(())

    monkeypatch.setattr(kept, "run", stopped)
    assert trials.make([(A, small)]) == []
    assert ended == [42]
    assert trials._running == set()
    assert not store.path.exists()


def test_a_lesson_that_raises_where_nothing_is_different_is_to_be_mended_first(small, store, runs):
    runs.answers[""] = Trial((), {4: "NameError: name 'x' is not defined"})
    with pytest.raises(RuntimeError, match=r"01_learn: expected it to run .* name 'x'.*make"):
        Trials(store, 1).make([(A, small)])
    assert runs.calls == [(NAME, "")]


def a_result(text="a"):
    return Result("fault a", NAME, "0123", (Fate(0, text, "green"),), 1.5)


def test_a_line_cut_short_is_cut_off_and_the_others_stay(store):
    odd = a_result("two\u2028lines, “quoted”")
    store.add(odd)
    with store.path.open("a") as file:
        file.write(json.dumps(asdict(a_result()))[:40])
    read = Store(store.path)
    assert [*read._results.values()] == [odd]
    read.add(replace(odd, key="4567"))
    assert len(Store(store.path)._results) == 2


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", "[1]", '{"fates": []}', '{"fates": [{}]}'])
def test_a_line_that_is_no_result_is_named_with_its_number(store, line):
    store.add(a_result())
    with store.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"results.jsonl:2: expected a result .* remove the line"):
        Store(store.path)
