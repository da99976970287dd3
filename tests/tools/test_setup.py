"""The three lists of requirements must agree, and a wrong machine must be told so in one line."""

import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from labs.stamp import ROOT
from tools.environment import binder, environment, pins
from tools.extras import requirements
from tools.lock import lock
from tools.preflight import complaint

GB = 10**9
MEASURED_TOGETHER = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "onnxruntime-gpu": "1.31.1",
    "onnxruntime": "1.31.1",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "jupyter-book": "1.0.4.post1",
    "myst-nb": "1.4.0",
    "jupytext": "1.19.6",
    "nbval": "0.11.0",
}


def test_binder_gets_the_same_pins_with_pytorch_for_cpus():
    assert (ROOT / ".binder/requirements.txt").read_text() == binder()
    lines = binder().splitlines()
    assert any(re.fullmatch(r"torch==[\d.]+\+cpu", line) for line in lines)
    assert not [line for line in lines if "nvidia" in line or line.startswith(("cuda", "triton"))]
    others = ("nvidia", "cuda", "triton", "torch", "onnxruntime")
    without = {pin for pin in pins() if not pin.startswith(others)}
    assert [line for line in lines if line.startswith("onnxruntime")] == [
        f"onnxruntime=={MEASURED_TOGETHER['onnxruntime']}"
    ]
    assert without <= set(lines)


def test_environment_yml_holds_the_pins_of_the_lock_file():
    text = (ROOT / "environment.yml").read_text()
    assert text == environment()
    pip = yaml.safe_load(text)["dependencies"][-1]["pip"]
    assert pip == [*pins(), "--editable ."]


def test_the_lock_file_pins_every_extra_exactly():
    locked = {r.name.lower().replace("_", "-"): r for r in map(Requirement, pins())}
    assert all(str(r.specifier).startswith("==") for r in locked.values())
    for extra in ("book", "lessons", "dev"):
        for wanted in map(Requirement, requirements(extra)):
            pin = locked[wanted.name.lower().replace("_", "-")]
            assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), wanted


def test_the_versions_measured_together_are_the_versions_locked():
    locked = {r.name: str(r.specifier).removeprefix("==") for r in map(Requirement, pins())}
    assert {name: locked[name] for name in MEASURED_TOGETHER} == MEASURED_TOGETHER


def test_the_lock_marks_what_only_some_platforms_have():
    resolved = {
        "triton": "3.1",
        "nvidia-nccl-cu13": "2",
        "onnxruntime-gpu": "1.31.1",
        "Sphinx": "7",
    }
    report = [{"metadata": {"name": n, "version": v}} for n, v in resolved.items()]
    report.append({"metadata": {"name": "cv-debugged", "version": "0.1.0"}})
    assert lock({"install": report}).splitlines()[2:] == [
        "nvidia-nccl-cu13==2; sys_platform == 'linux'",
        "onnxruntime==1.31.1; sys_platform == 'darwin'",
        "onnxruntime-gpu==1.31.1; sys_platform != 'darwin'",
        "sphinx==7",
        "triton==3.1; sys_platform == 'linux'",
    ]


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12), (3, 13, 9)])
def test_a_machine_that_will_do_gets_no_complaint(version):
    assert complaint(version, 20 * GB) == ""


@pytest.mark.parametrize(
    ("version", "free", "message"),
    [
        pytest.param((3, 10, 4), 20 * GB, "Python 3.11 to 3.13 is needed, this is 3.10", id="old"),
        pytest.param((3, 14, 0), 20 * GB, "this is 3.14", id="new"),
        pytest.param(
            (3, 12, 0), 2 * GB, "GB of free disk are needed here, there are 2.0", id="full"
        ),
    ],
)
def test_a_machine_that_will_not_do_is_told_why(version, free, message):
    assert message in complaint(version, free)


def test_preflight_runs_as_make_calls_it():
    subprocess.run([sys.executable, "tools/preflight.py", "."], cwd=ROOT, check=True)


def test_make_lists_every_target_that_the_readme_promises():
    text = subprocess.run(
        ["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("book", "test", "lab", "lessons", "bench", "clean"):
        assert re.search(rf"^  make {target} +\w", text, re.M), target
