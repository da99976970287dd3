"""A stale lesson must fail where CI is set, by name, before anything is built or executed.

The real Makefile and the real .ci/run work in a small project of their own. Its Python notes what
it is asked to do; only the check of the lessons is real, where a test says so.
"""

import os
import re
import shutil
import stat
import subprocess
import sys

import jupytext
import nbformat
import pytest

from labs.stamp import ROOT, stamp

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")

CHECK = "-m tools.execute --check"
EXECUTE = "-m tools.execute --jobs 2"
COLAB = "-m tools.colab"
BUILD = "-m tools.build_site"
NAME = "lessons/00_stage/01_count"
SOURCE = "# %% [markdown]\n# # Count\n\n# %%\nsum(range(5))\n"
PYTHON = """\
#!/bin/sh
echo "$*" | tr -s ' ' >> log
echo "$CI" >> told
case "$*" in
  "-m tools.execute --check")
    test -e real && exec {python} real
    test -e hang && exec sleep 30
    test ! -e stale || {{ echo "lessons/00_stage/01_count is stale: cells changed"; exit 1; }} ;;
  *tools.execute*) test -e broken || rm -f stale ;;
  *" tests") test ! -e failing ;;
esac
"""
# Rendering installs neither PyTorch nor Pillow, so the check has to do without.
REAL = """\
import runpy, sys
sys.path.insert(0, "")
sys.modules.update(torch=None, PIL=None)
sys.argv[1:] = ["--check"]
runpy.run_module("tools.execute", run_name="__main__", alter_sys=True)
"""
NOTE = '#!/bin/sh\necho "${0##*/} $*" >> log\n'


class Project:
    """Run commands in a small project, and know what they asked of its tools."""

    def __init__(self, root):
        self.root = root

    def plant(self, *names):
        for name in names:
            (self.root / name).touch()

    def run(self, *command, ci=""):
        dropped = ("CI", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "LESSON", "FORCE", "JOBS", "PYTHON")
        environment = {name: v for name, v in os.environ.items() if name not in dropped}
        environment |= {"PATH": f"{self.root}/.venv/bin:{os.environ['PATH']}", "CI": ci}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True
        )

    @property
    def asked(self):
        log = self.root / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def project(tmp_path):
    for name in ("Makefile", ".ci/run", "tools/preflight.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))  # older than what was installed from it
    programs = ("chromium", "dot", "magick", "apt-get", "sudo", "ruff", "mypy")
    for name, text in {
        "python": PYTHON.format(python=sys.executable),
        **dict.fromkeys(programs, NOTE),
    }.items():
        path = tmp_path / ".venv/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / ".venv/.book").touch()
    (tmp_path / ".venv/.all").touch()
    return Project(tmp_path)


def test_a_stale_lesson_fails_the_book_in_ci_before_anything_else(project):
    project.plant("stale")
    done = project.run("make", "book", ci="true")
    assert done.returncode != 0
    assert f"{NAME} is stale: cells changed" in done.stdout
    assert "run make lessons" in done.stderr
    assert project.asked == [CHECK]


@pytest.mark.parametrize("ci", ["", "false", "0"])
def test_elsewhere_the_book_executes_what_is_stale_first(project, ci):
    project.plant("stale")
    done = project.run("make", "book", ci=ci)
    assert done.returncode == 0, done.stderr
    assert project.asked == [CHECK, EXECUTE, COLAB, CHECK, BUILD]


def test_a_lesson_that_stays_stale_is_not_rendered(project):
    project.plant("stale", "broken")
    done = project.run("make", "book")
    assert done.returncode != 0
    assert project.asked == [CHECK, EXECUTE, COLAB, CHECK]


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_book_of_fresh_lessons_is_only_built(project, ci):
    assert project.run("make", "book", ci=ci).returncode == 0
    assert project.asked == [CHECK, BUILD]


@pytest.mark.parametrize("ci", ["", "true"])
def test_fresh_names_what_is_stale_and_executes_nothing(project, ci):
    project.plant("stale")
    done = project.run("make", "fresh", ci=ci)
    assert done.returncode != 0
    assert f"{NAME} is stale" in done.stdout
    assert project.asked == [CHECK]


def test_the_whole_of_ci_stops_at_a_stale_lesson(project):
    project.plant("stale")
    done = project.run("bash", ".ci/run")
    assert done.returncode != 0
    assert f"{NAME} is stale" in done.stdout
    assert project.asked == [CHECK]
    assert re.search(r"^ci: fresh: \d+ s$", done.stdout, re.M)


def test_the_whole_of_ci_checks_then_builds_then_tests_and_prints_every_time(project):
    done = project.run("bash", ".ci/run")
    assert done.returncode == 0, done.stderr
    suite = [line for line in project.asked if "pytest" in line]
    assert project.asked[:6] == [
        *(CHECK, CHECK, BUILD),
        *("ruff check .", "ruff format --check .", "mypy "),
    ]
    assert [line.split()[-1] == "tests" or "--nbval-lax" in line for line in suite] == [True, True]
    assert all("--durations 20" in line for line in suite)
    parts = re.findall(r"^(ci|make): ([\w ]+): \d+ s$", done.stdout, re.M)
    assert parts == [
        *[("ci", "fresh"), ("ci", "book")],
        *[("make", part) for part in ("style", "types", "tests", "lessons")],
        ("ci", "test"),
    ]
    assert re.search(r"^ci: \d+ s in all$", done.stdout, re.M)
    assert set((project.root / "told").read_text().split()) == {"true"}


def test_a_part_that_fails_says_how_long_it_took_and_ends_the_rest(project):
    project.plant("failing")
    done = project.run("make", "test")
    assert done.returncode != 0
    assert re.search(r"^make: tests: \d+ s$", done.stdout, re.M)
    assert "make: lessons" not in done.stdout
    assert not any("--nbval-lax" in line for line in project.asked)


def test_ci_ends_by_itself_and_says_what_hung(project):
    project.plant("hang")
    script = project.root / ".ci/run"
    text = script.read_text()
    assert re.search(r"^minutes=59$", text, re.M)
    script.write_text(text.replace("minutes=59", "minutes=0.02"))
    done = project.run("bash", ".ci/run")
    assert done.returncode == 124
    assert "expected an end within 0.02 minutes; fresh was still running" in done.stdout


def test_ci_installs_only_the_programs_that_are_missing(project):
    (project.root / ".venv/bin/dot").unlink()
    paths = project.root / "path"
    paths.mkdir()
    for name in ("bash", "timeout", "make", "sh", "date", "dirname", "tr", "env", "rm", "test"):
        (paths / name).symlink_to(shutil.which(name))
    done = project.run("env", f"PATH={project.root}/.venv/bin:{paths}", "/bin/bash", ".ci/run")
    assert done.returncode == 0, done.stderr
    installs = [line for line in project.asked if "apt-get" in line and "install" in line]
    assert len(installs) == 1
    assert installs[0].endswith("--no-install-recommends graphviz")


@pytest.mark.slow
def test_a_lesson_edited_after_its_execution_is_found_by_the_real_check(project):
    shutil.copytree(ROOT / "tools", project.root / "tools", dirs_exist_ok=True)
    (project.root / "labs").mkdir(exist_ok=True)
    for part in ("__init__.py", "stamp.py"):  # a stamp is taken of the checkout that it lies in
        shutil.copy(ROOT / "labs" / part, project.root / "labs" / part)
    (project.root / "real").write_text(REAL)
    source = project.root / f"{NAME}.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    notebook = jupytext.read(source)
    notebook.metadata = {"labs_stamp": stamp([notebook.cells[1].source])}
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    fresh = project.run("make", "fresh", ci="true")
    assert (fresh.returncode, fresh.stdout) == (0, ""), fresh.stderr

    before = source.with_suffix(".ipynb").read_bytes()
    source.write_text(SOURCE.replace("range(5)", "range(6)"))
    stale = project.run("make", "book", ci="true")
    assert stale.returncode != 0
    assert stale.stdout == f"{NAME} is stale: cells changed; make lessons LESSON={NAME}\n"
    assert project.asked == [CHECK, CHECK]
    assert source.with_suffix(".ipynb").read_bytes() == before
