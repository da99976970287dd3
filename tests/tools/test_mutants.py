"""Mutation testing, of a package made here: operators, the draw, the nearest tests, the fates."""

import pytest

from tools import mutants
from tools.mutants import draw, further_tests, nearest_tests, report, run
from tools.mutate import OPERATORS, Fault, faults, is_another

SUMS = '''"""Add, 1 by 1: this text stays."""

def total(values, least: int = 0, *, first=True):
    """Return the sum of values above 2."""
    found = 0
    for value in values:
        if value <= least:
            continue
        found = found + value
    return found


def unheard(a, b):
    return a - b
'''
FILES = {
    "labs/__init__.py": "",
    "labs/sums.py": SUMS,
    "labs/alone.py": "LEFT = 1\n",
    "labs/deep/__init__.py": "from labs.deep.inner import reached, other\n",
    "labs/deep/inner.py": "def reached():\n    return 1\n\ndef other():\n    return 2\n",
    "tests/test_sums.py": (
        "from labs.sums import total\n\ndef test_total():\n    assert total([-1, 0, 2, 3]) == 5\n"
    ),
    "tests/test_users.py": "from labs import sums\n\ndef test_nothing():\n    assert sums\n",
    "tests/deep/test_other_name.py": (
        "from labs.deep import reached\n\ndef test_reached():\n    assert reached()\n"
    ),
    "labs/deep/hidden.py": "HIDDEN = 1\n",
    "labs/shut/__init__.py": "from labs.shut import hidden\n",
    "labs/shut/hidden.py": "HIDDEN = 1\n",
    "tests/test_shut.py": "import labs.shut\n",
    "tests/test_far.py": "import labs.deep.inner\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def tree(folder):
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("operator", "source", "changes"),
    [
        ("comparison", "a < b", ["a <= b"]),
        ("comparison", "x is not None and y", ["bool", "x is None", "x is not None or y"]),
        ("comparison", "not x", ["bool(x)"]),
        ("constant", "f(3, 1e-5, True, 'text', 2.0)", ["4", "0.001", "False", "4.0"]),
        ("argument", "f(a, b=1, c=2)", ["f(a, c=2)", "f(a, b=1)"]),
        ("argument", "f(a, **more)", []),
        ("axis", "x.sum(1)", ["0"]),
        ("axis", "torch.cat([x], dim=-1)", ["-2"]),
        ("axis", "other(1)", []),
        ("sign", "a + b", ["(a - b)"]),
        ("sign", "(a - b) // c", ["((a - b) / c)", "(a + b)"]),
        ("sign", "-a", ["a"]),
        ("order", "f(a, b, c)", ["f(b, a, c)"]),
        ("order", "isinstance(a, b)", []),
        ("order", "x, y = z", ["(y, x)"]),
        ("order", "x[1:]", [":1"]),
        ("dtype", "x.float()", ["x.half"]),
        ("dtype", "torch.int64", ["torch.int32"]),
        ("guard", "if a:\n    raise ValueError(1 + 1)", ["False"]),
        ("guard", "if a:\n    b = 1", []),
        ("guard", "assert a, 'message'", ["pass"]),
        ("guard", "x.clone()", ["x"]),
        ("guard", "x.clamp(min=0)", ["x"]),
    ],
)
def test_each_operator_makes_another_program(operator, source, changes):
    found = [fault for fault in faults(source, "a.py") if fault.operator == operator]
    assert sorted(fault.after for fault in found) == sorted(c for c in changes if c != "bool")
    for fault in found:
        assert is_another(source, fault)
        assert fault.planted(source) != source
        assert fault.planted(source).count("\n") == source.count("\n")


def test_text_annotations_and_messages_are_left_alone():
    source = (
        'def f(a: tuple[1, 2] = None) -> X[3]:\n    """Say 4."""\n'
        '    assert a, 5 + 6\n    print(f"{7 + 8}")\n    raise ValueError(9 < 10)\n'
    )
    assert [str(fault) for fault in faults(source, "a.py")] == [
        "a.py:3 [guard] assert a, 5 + 6 -> pass"
    ]


def test_places_are_right_after_letters_of_two_bytes():
    source = "naïve = 'é'; x = naïve + 1\ny = 'ü' < 'ß'\n"
    planted = [fault.planted(source) for fault in faults(source, "a.py")]
    assert planted == [
        "naïve = 'é'; x = (naïve - 1)\ny = 'ü' < 'ß'\n",
        "naïve = 'é'; x = naïve + 2\ny = 'ü' < 'ß'\n",
        "naïve = 'é'; x = naïve + 1\ny = 'ü' <= 'ß'\n",
    ]


def test_a_fault_of_another_text_is_refused():
    fault = faults("a = 1 + 2", "a.py")[0]
    with pytest.raises(ValueError, match=r"expected '1 \+ 2' in a.py:1; it has changed"):
        fault.planted("a = 3 + 4")


def test_what_does_not_compile_or_changes_nothing_is_no_fault():
    assert not is_another("x = 1", Fault("a.py", 1, "sign", "1", "+", 4))
    assert not is_another("x = 1", Fault("a.py", 1, "sign", "1", "(1)", 4))


# --------------------------------------------------------------------------------- the draw


def test_seeds_reproduce_and_a_larger_draw_begins_with_the_smaller(package):
    ten = draw(package, 10, seed=3)
    assert ten == draw(package, 10, seed=3)
    assert ten[:4] == draw(package, 4, seed=3)
    assert ten != draw(package, 10, seed=4)
    assert len(set(ten)) == 10
    # Operators take turns: nothing comes twice before all that there are came once.
    assert [f.operator for f in ten[:3]] == ["comparison", "constant", "sign"]
    assert {fault.operator for fault in draw(package, 999, 0)} <= set(OPERATORS)


def test_each_file_that_is_named_gets_its_number(package):
    drawn = draw(package, 2, 0, ["labs/sums.py", "labs/deep/inner.py"])
    assert [fault.file for fault in drawn] == ["labs/sums.py"] * 2 + ["labs/deep/inner.py"] * 2
    with pytest.raises(FileNotFoundError):
        draw(package, 1, 0, ["labs/none.py"])


def test_equivalent_faults_are_not_drawn_and_need_a_reason(package):
    listed = package / "tools" / "equivalent_mutants.txt"
    listed.parent.mkdir()
    listed.write_text("# all\nlabs/alone.py | constant | LEFT = 1 | LEFT = 2 # nobody reads it\n")
    assert draw(package, 9, 0, ["labs/alone.py"]) == []
    (package / "labs/alone.py").write_text("RIGHT = 1\nLEFT = 1")
    assert [fault.line for fault in draw(package, 9, 0, ["labs/alone.py"])] == [1]
    listed.write_text("labs/alone.py | constant | LEFT = 1 | LEFT = 2\n")
    with pytest.raises(ValueError, match=r"changed # reason', got 'labs/alone.py"):
        draw(package, 9, 0)


def test_the_list_of_equivalent_faults_names_faults_that_there_are():
    for line in mutants._equivalents(mutants.ROOT):
        file = line.split(" | ")[0]
        source = (mutants.ROOT / file).read_text(encoding="utf-8")
        assert line in {mutants._key(fault, source) for fault in faults(source, file)}, line


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("labs/sums.py", ["tests/test_sums.py", "tests/test_users.py"]),
        ("labs/deep/inner.py", ["tests/deep/test_other_name.py", "tests/test_far.py"]),
        ("labs/deep/__init__.py", ["tests/deep/test_other_name.py"]),
        ("labs/deep/hidden.py", ["tests/deep/test_other_name.py"]),
        ("labs/shut/hidden.py", ["tests/test_shut.py"]),
        ("labs/alone.py", []),
    ],
)
def test_the_nearest_tests(package, file, tests):
    if file == "labs/alone.py":  # nothing imports it, and nothing else lies in its folder
        for test in ("test_sums.py", "test_users.py", "test_far.py", "test_shut.py"):
            (package / "tests" / test).unlink()
    assert nearest_tests(package, file) == tests


def test_a_test_of_the_same_name_is_near_only_in_its_folder_or_when_it_imports(package):
    (package / "tests/deep/test_sums.py").write_text("from labs import deep\n")
    assert "tests/deep/test_sums.py" not in nearest_tests(package, "labs/sums.py")
    (package / "tests/deep/test_sums.py").write_text("from labs import sums\n")
    near = nearest_tests(package, "labs/sums.py")
    assert near[:2] == ["tests/test_sums.py", "tests/deep/test_sums.py"]


def test_the_tests_of_a_package_come_before_those_that_only_use_it(package):
    (package / "tests/test_deep.py").write_text("from labs.deep import other\n")
    (package / "tests/test_alone.py").write_text("from labs.deep import other\n")
    near = nearest_tests(package, "labs/deep/inner.py")
    assert near[:3] == [
        "tests/deep/test_other_name.py",
        "tests/test_deep.py",
        "tests/test_alone.py",
    ]


def test_tests_one_step_further_away_are_found(package, monkeypatch):
    files = {
        "labs/upper.py": "from labs.deep import reached\n",
        "tests/test_upper.py": "import labs.upper\n",
        "tests/probe.py": "from labs.deep.inner import other\n",
        "tests/test_child.py": "COMMAND = ['-m', 'tests.probe']\n",
        "tests/test_frozen.py": "",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    near = ["tests/deep/test_other_name.py", "tests/test_far.py"]
    assert nearest_tests(package, "labs/deep/inner.py") == near
    far = ["tests/test_child.py", "tests/test_upper.py", "tests/test_frozen.py"]
    assert further_tests(package, "labs/deep/inner.py") == far
    assert further_tests(package, "labs/upper.py") == ["tests/test_frozen.py"]
    monkeypatch.setattr(mutants, "MOST", 1)
    assert further_tests(package, "labs/deep/inner.py") == [far[0], far[2]]


# --------------------------------------------------------------------------------- the runs


def pick(package, after, file="labs/sums.py"):
    found = faults((package / file).read_text(), file)
    return next(fault for fault in found if fault.after == after)


def test_what_is_tested_is_killed_and_what_is_not_survives(package):
    drawn = [
        pick(package, "(found - value)"),
        pick(package, "(a + b)"),
        pick(package, "2", "labs/alone.py"),
    ]
    before, out = tree(package), package.parent / "out" / "results.txt"
    results = run(package, drawn, out, jobs=2)
    fates = {result.fault.after: (result.fate, result.by) for result in results}
    assert fates["(found - value)"] == ("killed", "tests/test_sums.py::test_total")
    assert fates["(a + b)"] == ("survived", "tests/test_sums.py tests/test_users.py")
    assert tree(package) == before  # also no bytecode, and no cache
    assert sorted(out.read_text().splitlines()) == sorted(map(str, results))
    shown = report(results).splitlines()
    assert shown[0].startswith("1 of ")
    assert "survived  labs/sums.py:14 [sign] a - b -> (a + b)" in report(results)


def test_a_copy_is_whole_again_after_each_fault(package, tmp_path):
    drawn = [pick(package, "(found - value)"), pick(package, "(a + b)")]
    fates = [result.fate for result in run(package, drawn, tmp_path / "out.txt", jobs=1)]
    assert fates == ["killed", "survived"]


def test_a_test_that_fails_anyway_kills_nothing(package):
    (package / "tests/test_sums.py").write_text("def test_total():\n    assert False\n")
    (result,) = run(package, [pick(package, "(a + b)")], package / ".cache" / "out.txt", jobs=1)
    assert (result.fate, result.by) == ("broken", "tests/test_sums.py::test_total")
    assert report([result]).startswith("0 of 0 faults killed\nbroken")


def test_a_fault_that_runs_for_ever_is_stopped(package):
    (package / "tests/test_sums.py").write_text("import time\n\ntime.sleep(600)\n")
    (result,) = run(package, [pick(package, "(a + b)")], package / ".cache" / "out.txt", 1, 1.0)
    assert result.fate == "timeout"


def test_a_fault_for_which_only_a_further_test_fails_is_killed(package):
    (package / "labs/upper.py").write_text("from labs.deep import other\n\nGOT = other()\n")
    (package / "tests/test_upper.py").write_text(
        "from labs.upper import GOT\n\ndef test_it():\n    assert GOT == 2\n"
    )
    fault = pick(package, "3", "labs/deep/inner.py")
    (result,) = run(package, [fault], package / ".cache" / "out.txt", jobs=1)
    assert (result.fate, result.by) == ("killed", "tests/test_upper.py::test_it")


def test_a_fault_without_end_is_killed_when_its_tests_end_without_it(package, monkeypatch):
    ends = iter([(None, ""), (0, "1 passed")])
    monkeypatch.setattr(mutants.Trials, "_pytest", lambda self, copy, tests: next(ends))
    (result,) = run(package, [pick(package, "(a + b)")], package / ".cache" / "out.txt", 1, 5.0)
    assert (result.fate, result.by) == ("killed", "5 s over 2 files")


def test_what_nobody_tests_is_said(package):
    for test in (package / "tests").rglob("*.py"):
        test.unlink()
    (result,) = run(package, [pick(package, "(a + b)")], package / ".cache" / "out.txt")
    assert result.fate == "untested"
    assert report([result]).startswith("0 of 1 faults killed (0%)")


def test_ctrl_c_keeps_what_is_known(package, monkeypatch):
    known = pick(package, "(a + b)")

    def judge(self, fault):
        if fault is not known:
            raise KeyboardInterrupt
        return mutants.Result(fault, "killed", "a test")

    monkeypatch.setattr(mutants.Trials, "judge", judge)
    out = package / ".cache" / "out.txt"
    results = run(package, [known, *draw(package, 6, 0)], out, jobs=1)
    assert [result.fault for result in results] == [known]
    assert out.read_text() == f"{results[0]}\n"


def test_the_command(package, monkeypatch, capsys):
    monkeypatch.setattr(mutants, "ROOT", package)
    out = package / "found.txt"
    asked = ["--file", "labs/sums.py", "--number", "1", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(
        mutants.Trials, "judge", lambda _, fault: mutants.Result(fault, "survived", "a test")
    )
    assert mutants.main(asked) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "0 of 1 faults killed (0%)"
    assert said.splitlines()[-1] == f"1 of 1 run; all in {out}"
