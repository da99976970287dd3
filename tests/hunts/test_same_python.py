"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import contextlib
import io
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from labs.hunts.workbench import check_run_script
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import failed, marks, seen, when

LESSON = "lessons/00_workbench/01_set_up_the_workbench"
IN_AN_ENVIRONMENT = sys.prefix != sys.base_prefix


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def right(script, arguments):
    return run([sys.executable, script, *arguments])


def planted(script, arguments):
    return run(["python", script, *arguments])


def ask_the_path(script, arguments):
    """Look up the whole path of python first: it is the same wrong one."""
    return run([shutil.which("python") or sys.executable, script, *arguments])


def follow_the_link(script, arguments):
    """Tidy the path of the right Python: the link leads out of the environment."""
    return run([Path(sys.executable).resolve(), script, *arguments])


def hand_on_the_folders(script, arguments):
    """Start another Python, and lend it the folders of packages."""
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        return planted(script, arguments)


def stay_in_this_process(script, arguments):
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        patch.object(sys, "argv", [str(script), *arguments]),
        patch.object(sys, "path", [str(script.parent), *sys.path]),
    ):
        runpy.run_path(str(script), run_name="__main__")
    return printed.getvalue()


def write_one_line(script, arguments):
    return run(f"{shlex.quote(sys.executable)} {script} {' '.join(arguments)}", shell=True)


def quote_only_the_path(script, arguments):
    words = " ".join(arguments)
    return run(f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {words}", shell=True)


def send_the_text(script, arguments):
    return run([sys.executable, "-c", script.read_text(), *arguments])


def leave_the_folder_out(script, arguments):
    return run([sys.executable, "-I", script, *arguments])


def swallow_the_failure(script, arguments):
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout


def change_the_path(script, arguments):
    """Put this environment first on the PATH, for this process and for good."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return right(script, arguments)


def go_to_the_script(script, arguments):
    os.chdir(script.parent)
    return right(script, arguments)


def mix_the_streams(script, arguments):
    command = [sys.executable, "-X", "importtime", script, *arguments]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return said.stdout


def forget_the_arguments(script, arguments):
    return right(script, [])


def in_a_process(script, arguments):
    return script.name == "process.py"


def a_python_on_the_path(script, arguments):
    return shutil.which("python") is not None


def no_python_on_the_path(script, arguments):
    return shutil.which("python") is None


WRONG = {
    planted: "✗✗✓✓✓✓✓",
    ask_the_path: "✗✓✓✓✓✓✓",
    when(no_python_on_the_path, planted, right): "✓✗✓✓✓✓✓",
    when(in_a_process, stay_in_this_process, right): "✓✓✗✓✓✓✓",
    forget_the_arguments: "✓✓✓✗✓✓✓",
    quote_only_the_path: "✓✓✓✗✓✓✓",
    write_one_line: "✓✓✓✗✓✓✓",
    send_the_text: "✓✓✓✓✗✓✓",
    leave_the_folder_out: "✓✓✓✓✗✓✓",
    swallow_the_failure: "✓✓✓✓✓✗✓",
    change_the_path: "✓✓✓✓✓✓✗",
    go_to_the_script: "✓✓✓✓✓✓✗",
    follow_the_link: "✗✗✓✓✓✓✓",
    hand_on_the_folders: "✗✗✓✓✓✓✓",
    stay_in_this_process: "✓✓✗✓✓✗✓",
    mix_the_streams: "✗✗✗✗✗✗✗",
}


@pytest.fixture(autouse=True)
def a_python_of_this_environment_first(monkeypatch):
    """Let the planted bug work where no probe changes the PATH, as it does for who wrote it."""
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", folder + os.pathsep + os.environ["PATH"])


def test_the_planted_bug_fails_only_where_another_python_is_found_or_none():
    verdict = check_run_script(run_cell(LESSON, "hunt-bug")["run_script"])
    assert marks(verdict) == "✗✗✓✓✓✓✓", verdict
    assert "No module named 'PIL'" in seen(verdict)


def test_the_solution_of_the_lesson_passes():
    verdict = check_run_script(run_cell(LESSON, "hunt-solution")["run_with_this_python"])
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.skipif(os.name == "nt", reason="the wrong fixes are written for a POSIX shell")
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    if fix is follow_the_link and not IN_AN_ENVIRONMENT:
        pytest.skip("outside of an environment the link leads nowhere else")
    verdict = check_run_script(fix)
    assert marks(verdict) == refused, verdict


def with_the_path(script, arguments):
    """Put this environment first on the PATH of the script alone."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with patch.dict(os.environ, PATH=path):
        return run(["python", script, *arguments])


def wait_for_it(script, arguments):
    command = [sys.executable, "-u", str(script), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    return printed


@pytest.mark.skipif(os.name == "nt", reason="Windows looks for python beside this one first")
@pytest.mark.parametrize("fix", [right, with_the_path, wait_for_it])
def test_other_right_fixes_pass(fix):
    verdict = check_run_script(fix)
    assert verdict.passed, verdict


def test_the_verdict_leaves_the_variables_and_the_folder_as_they_were():
    before, folder = dict(os.environ), Path.cwd()
    check_run_script(change_the_path)
    check_run_script(go_to_the_script)
    assert dict(os.environ) == before
    assert Path.cwd() == folder


def test_a_script_that_stops_is_told_in_its_own_words():
    def silent(script, arguments):
        raise subprocess.CalledProcessError(1, "python")

    assert "the script stopped: no reason was kept" in seen(check_run_script(silent))
    assert failed(check_run_script(silent))[0].startswith("the script finds")
