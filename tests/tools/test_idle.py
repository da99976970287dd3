"""A planted fault must change what it says it changes, and nobody may be left out of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labs.stamp import ROOT
from tools import faults, idle
from tools.faults import FAULTS, Fault, lesson_at, named, put_in_place_of
from tools.kept import Result, Store
from tools.lesson import find
from tools.trial import Fate

PROBE = Path(__file__).with_name("fault_probe.py")

# ----------------------------------------------------------------------------- what faults do


@pytest.fixture(scope="module")
def answers():
    """Ask about every fault, in children of one fresh process that plants them."""
    alone = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, str(PROBE)]
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_a_fault_changes_what_it_says(answers, name):
    sound, faulty = answers[name]
    assert sound is True
    assert faulty is False


def in_a_child(code):
    """Run code in a fresh process, and return what it prints."""
    alone = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_fault_reaches_ranks_and_the_workers_of_an_ablation():
    code = """if True:
        import operator
        from tools.faults import plant
        plant("shards whole")
        from labs.ablation import processes
        from labs.ddp import launch, shard
        print(*(len(part) for part in launch(shard_of_rank, 2)))
        with processes(1) as pool:
            print(len(pool.submit(shard, 10, 0, 2).result()))
        """
    code = code.replace("import operator", "from tests_of_ranks import shard_of_rank")
    worker = "from labs.ddp import shard\ndef shard_of_rank(rank): return shard(10, rank, 2)\n"
    given = "import sys, tempfile, pathlib; folder = tempfile.mkdtemp(); sys.path.append(folder)\n"
    given += f"pathlib.Path(folder, 'tests_of_ranks.py').write_text({worker!r})\n"
    assert in_a_child(given + code) == ["10", "10", "10"]


def test_an_object_is_replaced_wherever_a_module_of_labs_holds_it(monkeypatch):
    from labs import boxes, criteria
    from labs.boxes import overlap as sound
    from labs.criteria import anchored

    holders = [boxes, anchored, sys.modules["labs.boxes.overlap"]]
    before = [vars(module)["overlap"] for module in holders]
    assert before == [sound] * 3
    assert criteria is not None

    def new():
        return None

    count = put_in_place_of(sound, new)
    try:
        assert [vars(module)["overlap"] for module in holders] == [new] * 3
        assert count >= 3
        assert idle.find is find  # modules outside of labs keep theirs
    finally:
        new.__module__ = "labs.boxes.overlap"
        assert put_in_place_of(new, sound) == count


def test_an_object_that_nobody_holds_is_refused():
    def nobody():
        return None

    nobody.__module__ = "labs.boxes.overlap"
    with pytest.raises(LookupError, match=r"a module that holds labs.boxes.overlap.*nobody"):
        put_in_place_of(nobody, print)


# ------------------------------------------------------------------------------ the list


def test_every_lesson_is_concerned_by_some_fault_and_every_fault_by_some_lesson():
    concerned = {lesson.name for fault in FAULTS for lesson in fault.lessons()}
    assert {lesson.name for lesson in find()} - concerned == set()
    assert [fault.name for fault in FAULTS if not fault.lessons()] == []


def test_faults_have_names_of_their_own_and_say_what_is_wrong():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert [fault.name for fault in FAULTS if not fault.says.endswith(".")] == []


def test_a_place_without_a_lesson_is_refused():
    assert lesson_at("01/7").name == "lessons/01_foundations/07_feel_the_residual"
    with pytest.raises(LookupError, match=r"one lesson at 01/77, got 0 of \['01_foundations/0"):
        lesson_at("01/77")


def test_an_unknown_fault_is_refused_with_a_near_miss(capsys):
    with pytest.raises(LookupError, match=r"got 'lerning off'; did you mean 'learning off'\?"):
        named("lerning off")
    assert idle.main(["lerning off"]) == 2
    assert "did you mean 'learning off'?" in capsys.readouterr().err


def test_a_lesson_that_a_fault_does_not_concern_is_refused(capsys):
    assert idle.main(["shards whole", "--lesson", "residual"]) == 2
    assert "expected a lesson of lessons/06_engineering/05_train" in capsys.readouterr().err
    assert idle.main(["shards whole", "--lesson", "no such lesson"]) == 2
    assert "expected one lesson for LESSON=no such lesson, got 0" in capsys.readouterr().err


def test_one_lesson_is_run_with_every_fault_that_concerns_it():
    chosen = [(condition.name, lesson.name) for condition, lesson in idle.pairs(FAULTS, "residual")]
    assert {name for _, name in chosen} == {"lessons/01_foundations/07_feel_the_residual"}
    assert ("shortcut off", chosen[0][1]) in chosen
    assert ("shards whole", chosen[0][1]) not in chosen


def test_the_text_of_a_fault_holds_its_helpers_and_no_other_fault():
    text = named("anchors equal").source()
    defined = {line.split("(")[0] for line in text.splitlines() if line.startswith("def ")}
    assert {"def anchors_equal", "def spoil", "def change", "def through"} <= defined
    assert {"def put_in_place_of", "def plant", "def _prepared"} <= defined
    assert not {"def shards_whole", "def learning_off"} & defined


# ------------------------------------------------------------------------------ the table


def result(condition, *fates, lesson="lessons/01_foundations/07_feel_the_residual"):
    return Result(condition, lesson, "key", tuple(Fate(k, *fate) for k, fate in enumerate(fates)))


def test_the_report_counts_and_lists_what_stayed_green():
    text = idle.report(
        [
            result("fault a", ("x", "green"), ("y", "red"), ("z", "error", "KeyError")),
            result("fault b", ("x", "green"), ("y", "green"), ("z", "red")),
        ],
        wanted=3,
    )
    name = "lessons/01_foundations/07_feel_the_residual"
    assert f"| fault a | {name} | 1 | 1 | 1 |\n| fault b | {name} | 2 | 1 | 0 |\n" in text
    assert "1 of 3 runs are not known yet" in text
    assert text.endswith(f"## {name}\n\n- x (all 2: fault a, fault b)\n- y (fault b)\n")


def test_a_lesson_without_an_idle_claim_says_so():
    assert idle.report([result("a", ("x", "red"))], 1).endswith("No claim stayed green.\n")


def test_the_table_is_made_of_what_is_kept_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tools.kept.run", None)
    (one, *_) = idle.pairs([named("shortcut off")], "residual")
    kept = replace(result(one[0].name, ("x", "green")), key=one[0].key(one[1]))
    Store(tmp_path / "kept").add(kept)
    known = ["shortcut off", "--table", "--kept", str(tmp_path / "kept")]
    assert idle.main([*known, "--lesson", "residual"]) == 0
    assert "| shortcut off | lessons/01_foundations/07_feel_the_residual | 1 |" in (
        capsys.readouterr().out
    )
    assert idle.main(known) == 1
    assert "runs are not known yet" in capsys.readouterr().out


def test_a_fault_is_planted_by_the_code_before_the_lesson(monkeypatch):
    planted = []
    fault = Fault("it's off", lambda: planted.append("here"), "01/7")
    monkeypatch.setattr(faults, "FAULTS", (fault,))
    monkeypatch.setattr("labs.ddp.launcher._PROGRAM", "main(1); main(2)")
    monkeypatch.setattr("labs.ablation.pool._prepare_worker", None)
    monkeypatch.setattr(Fault, "source", lambda self: "text")
    condition = idle.condition(fault)
    exec(condition.first, {})
    assert planted == ["here"]
    assert condition.depends == "text"
    from labs.ddp import launcher

    expected = 'from tools.faults import plant; plant("it\'s off"); main(1); main(2)'
    assert expected == launcher._PROGRAM
