"""Show the doctor machines that are broken in known ways."""

import ast
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from labs import __main__, doctor, machine
from labs.doctor import Finding, Report, _judge

LIBRARIES = {
    "torch": {"version": "2.14.1+cu130", "cuda": "13.0", "threads": 8},
    "torchvision": {"version": "0.29.1+cu130"},
    "gpu": {"name": "A GPU", "free_gb": 7.5, "total_gb": 8.0},
    "onnxruntime": {
        "version": "1.31.1",
        "cuda": "13.0",
        "packages": ["onnxruntime-gpu"],
        "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    },
    "provider=CUDAExecutionProvider": {"loaded": True, "stderr": ""},
    "provider=CPUExecutionProvider": {"loaded": True, "stderr": ""},
    "kernel": {"starts": "python", "folder": sys.prefix},
}
MACHINE = {
    "python": {"version": [3, 12, 1], "path": "/usr/bin/python3"},
    "driver": {"version": "580.65.06", "command": "nvidia-smi"},
    "graphviz": {"version": "2.43.0", "command": "dot"},
    "imagemagick": {"version": "7.1.1", "command": "magick"},
    "chromium": {"version": "", "command": "chromium"},
    "disk": {"free_gb": 50.0},
    "memory": {"free_gb": 8.0},
    "threads": {"cores": 8},
}
HEALTHY = {**LIBRARIES, **MACHINE}
NO_DRIVER = {"error": "nvidia-smi not found", "absent": "nvidia-smi"}
NO_GPU = {"driver": NO_DRIVER, "gpu": {"why_none": ""}}
NOT_LOADED = {"loaded": False, "stderr": "E: library x with error: libcublasLt.so.13: no such file"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Put the project in a folder with pins, in an environment that is not conda's, on Debian."""
    (tmp_path / "requirements.lock").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name == "apt-get" else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def find(part, **changed) -> Finding:
    report = _judge({**HEALTHY, **changed})
    return next(f for f in report.findings if f.part.strip() == part)


PIP = ".venv/bin/python -m pip"
PINS = f"{PIP} install -r requirements.lock"
APT_PYTHON = (
    "sudo apt-get install python3 python3-venv (a version from 3.11 to 3.13), then make lab"
)
RESTART = "restart the machine; if that does not help, install the driver again"
AGAIN = f"{PIP} uninstall --yes torch torchvision; {PINS}"


def test_a_healthy_machine_is_all_ok():
    report = _judge(HEALTHY)
    assert {finding.status for finding in report.findings} == {"ok"}
    assert report.ready
    assert not any(finding.mend for finding in report.findings)


def test_no_gpu_is_no_failure():
    lost = {**NO_GPU, "provider=CUDAExecutionProvider": NOT_LOADED}
    report = _judge({**HEALTHY, **lost})
    assert report.ready
    for part in "NVIDIA driver", "GPU", "CUDA provider":
        finding = find(part, **lost)
        assert (finding.status, finding.mend) == ("missing", doctor._NO_NEED)


NMS = {"error": "RuntimeError: operator torchvision::nms does not exist"}
NO_TORCH = {"error": "ModuleNotFoundError: No module named 'torch'", "absent": "torch"}
NO_NUMPY = {"error": "ModuleNotFoundError: No module named 'numpy'", "absent": "numpy"}
NO_KERNEL = {"error": "NoSuchKernel: No such kernel named python3"}
NO_IPYKERNEL = {"error": "ModuleNotFoundError: No module named 'ipykernel'", "absent": "ipykernel"}
INSTALL_KERNEL = ".venv/bin/python -m ipykernel install --sys-prefix"


@pytest.mark.parametrize(
    ("part", "changed", "status", "mend"),
    [
        pytest.param("PyTorch", {"torch": NO_TORCH}, "missing", PINS, id="no torch"),
        pytest.param("PyTorch", {"torch": NO_NUMPY}, "broken", PINS, id="torch without numpy"),
        pytest.param(
            "PyTorch",
            {"torch": {**LIBRARIES["torch"], "version": "1.13.1"}},
            "broken",
            PINS,
            id="old torch",
        ),
        pytest.param(
            "torchvision",
            {"torchvision": NMS},
            "broken",
            AGAIN,
            id="torch and torchvision mismatch",
        ),
        pytest.param(
            "ONNX Runtime",
            {"onnxruntime": {"error": "ImportError: x"}},
            "broken",
            PINS,
            id="onnxruntime",
        ),
        pytest.param(
            "CPU provider",
            {"provider=CPUExecutionProvider": NOT_LOADED},
            "broken",
            PINS,
            id="cpu provider",
        ),
        pytest.param(
            "Jupyter kernel", {"kernel": NO_KERNEL}, "missing", INSTALL_KERNEL, id="no kernelspec"
        ),
        pytest.param(
            "Jupyter kernel", {"kernel": NO_IPYKERNEL}, "missing", PINS, id="no ipykernel"
        ),
        pytest.param(
            "Free disk",
            {"disk": {"free_gb": 0.2}},
            "broken",
            "delete files that you no longer need",
            id="disk full",
        ),
        pytest.param(
            "Free memory",
            {"memory": {"free_gb": 0.2}},
            "broken",
            "close programs and kernels you do not use",
            id="memory",
        ),
        pytest.param(
            "Python",
            {"python": {"version": [3, 10, 9], "path": "/p"}},
            "broken",
            APT_PYTHON,
            id="old python",
        ),
        pytest.param(
            "Python",
            {"python": {"version": [3, 14, 0], "path": "/p"}},
            "broken",
            APT_PYTHON,
            id="new python",
        ),
    ],
)
def test_what_stops_a_lesson(part, changed, status, mend):
    finding = find(part, **changed)
    assert (finding.status, finding.mend) == (status, mend)
    assert part in [name.strip() for name in _judge({**HEALTHY, **changed}).stoppers]


TORCH_12 = {**LIBRARIES["torch"], "version": "2.11.0+cu126", "cuda": "12.6"}
TORCH_CPU = {**LIBRARIES["torch"], "version": "2.14.1+cpu", "cuda": None}
BOTH = {**LIBRARIES["onnxruntime"], "packages": ["onnxruntime", "onnxruntime-gpu"]}
CPU_RUNTIME = {**LIBRARIES["onnxruntime"], "cuda": None, "providers": ["CPUExecutionProvider"]}
OLD_DRIVER = {"why_none": "The NVIDIA driver on your system is too old"}
STALE_DRIVER = {"error": "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch"}


@pytest.mark.parametrize(
    ("part", "changed", "status", "mend"),
    [
        pytest.param("CUDA versions", {"torch": TORCH_12}, "broken", PINS, id="CUDA 12 and 13"),
        pytest.param(
            "CUDA provider",
            {"provider=CUDAExecutionProvider": NOT_LOADED},
            "broken",
            PINS,
            id="cuda provider",
        ),
        pytest.param(
            "CUDA provider",
            {"onnxruntime": CPU_RUNTIME},
            "missing",
            f"{PIP} uninstall --yes onnxruntime; {PINS}",
            id="cpu build of onnxruntime beside a GPU",
        ),
        pytest.param(
            "ONNX Runtime",
            {"onnxruntime": BOTH},
            "broken",
            f"{PIP} uninstall --yes onnxruntime onnxruntime-gpu; {PINS}",
            id="both onnxruntimes",
        ),
        pytest.param(
            "GPU",
            {"torch": TORCH_CPU, "gpu": {"why_none": ""}},
            "broken",
            AGAIN,
            id="cpu build of torch",
        ),
        pytest.param(
            "GPU",
            {"gpu": OLD_DRIVER},
            "broken",
            "install an NVIDIA driver that supports CUDA 13.0",
            id="old driver",
        ),
        pytest.param(
            "GPU",
            {"gpu": {"error": "AcceleratorError: no kernel image"}},
            "broken",
            AGAIN,
            id="old GPU",
        ),
        pytest.param(
            "NVIDIA driver", {"driver": STALE_DRIVER}, "broken", RESTART, id="upgraded driver"
        ),
        pytest.param(
            "Graphviz",
            {"graphviz": {"error": "dot not found", "absent": "dot"}},
            "missing",
            "optional, draws computation graphs: sudo apt-get install graphviz",
            id="graphviz",
        ),
        pytest.param(
            "ImageMagick",
            {"imagemagick": {"error": "magick: no delegates"}},
            "broken",
            "optional, shrinks images: sudo apt-get install imagemagick",
            id="imagemagick",
        ),
        pytest.param(
            "Free memory",
            {"memory": {"error": "no psutil", "absent": "psutil"}},
            "missing",
            PINS,
            id="no psutil",
        ),
    ],
)
def test_what_stops_no_lesson(part, changed, status, mend):
    finding = find(part, **changed)
    assert (finding.status, finding.mend) == (status, mend)
    assert _judge({**HEALTHY, **changed}).ready


def test_hidden_gpu_is_told_from_an_old_driver(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find("GPU", gpu={"why_none": ""}).mend == "unset CUDA_VISIBLE_DEVICES"


def test_without_torch_the_gpu_line_does_not_guess():
    finding = find("GPU", torch=NO_TORCH, gpu=NO_TORCH)
    assert (finding.status, finding.mend) == ("missing", "mend PyTorch first")


def test_tensorrt_is_optional_even_beside_a_gpu():
    ort = {**LIBRARIES["onnxruntime"], "providers": ["TensorrtExecutionProvider"]}
    why = {"loaded": False, "stderr": "x\nPlease install TensorRT libraries\n"}
    finding = find(
        "Tensorrt provider", onnxruntime=ort, **{"provider=TensorrtExecutionProvider": why}
    )
    assert finding.status == "missing"
    assert finding.seen.endswith("Please install TensorRT libraries")


def test_why_a_provider_did_not_load_is_quoted():
    seen = find("CUDA provider", **{"provider=CUDAExecutionProvider": NOT_LOADED}).seen
    assert seen.endswith("libcublasLt.so.13: no such file")


def test_kernel_of_this_environment_by_path_is_ok(project):
    starts = project / ".venv" / "bin" / "python3"
    starts.touch()
    assert find("Jupyter kernel", kernel={"starts": str(starts), "folder": ""}).status == "ok"


@pytest.mark.parametrize(("exists", "what"), [(True, "another Python"), (False, "that is gone")])
@pytest.mark.parametrize(
    ("inside", "first"),
    [(True, INSTALL_KERNEL), (False, ".venv/bin/python -m jupyter kernelspec remove python3")],
)
def test_kernel_of_another_python(project, exists, what, inside, first):
    other = project / "other" / "bin" / "python"
    other.parent.mkdir(parents=True)
    if exists:
        other.touch()
    folder = project / (".venv/share" if inside else "home")
    finding = find("Jupyter kernel", kernel={"starts": str(other), "folder": str(folder)})
    assert finding.status == "broken"
    assert finding.needed
    assert what in finding.seen
    assert finding.mend.split("; ")[0] == first


def test_mend_names_packages_where_there_are_no_pins(project):
    (project / "requirements.lock").unlink()
    assert find("PyTorch", torch=NO_TORCH).mend == f"{PIP} install torch torchvision"


def test_mend_in_conda_updates_the_environment(project):
    (project / "environment.yml").touch()
    (project / ".venv" / "conda-meta").mkdir()
    assert find("PyTorch", torch=NO_TORCH).mend == "conda env update --file environment.yml"


@pytest.mark.parametrize(
    ("manager", "mend"),
    [
        ("brew", "brew install --cask chromium"),
        ("pacman", "sudo pacman -S chromium"),
        ("winget", "winget install Google.Chrome"),
        (None, "install chromium with your system's package manager"),
    ],
)
def test_mend_speaks_the_language_of_the_system(monkeypatch, manager, mend):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name == manager else None)
    absent = {"error": "chromium not found", "absent": "chromium"}
    assert find("Chromium", chromium=absent).mend.endswith(f": {mend}")


def test_a_path_with_a_space_is_quoted(project, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(project / "my env" / "python"))
    assert find("PyTorch", torch=NO_TORCH).mend.startswith("'my env/python' -m pip")


@pytest.mark.parametrize("lost", [*LIBRARIES, *MACHINE])
def test_whatever_fails_there_is_a_report(lost):
    if lost == "python":
        return  # it is what runs this
    report = _judge({**HEALTHY, lost: {"error": "ValueError: ünexpected"}})
    assert len(report.findings) >= len(MACHINE)
    assert any(f.status != "ok" for f in report.findings)


def test_report_is_a_table_and_a_text():
    report = Report((Finding("Disk", "broken", "0 GB", "delete", True), Finding("GPU", "ok", "x")))
    assert list(report.table().columns) == ["part", "status", "seen", "mend", "needed"]
    assert report.table()["status"].tolist() == ["broken", "ok"]
    assert repr(report).splitlines() == [
        "Disk  broken   0 GB",
        "               -> delete",
        "GPU   ok       x",
        "",
        "Some lesson cannot run here. Mend first: Disk.",
    ]


@pytest.mark.parametrize(("disk_gb", "status"), [(50.0, 0), (0.1, 1)])
def test_exit_status_and_json(monkeypatch, capsys, disk_gb, status):
    monkeypatch.setattr(doctor, "look", lambda: {**HEALTHY, "disk": {"free_gb": disk_gb}})
    assert __main__.main(["doctor", "--json"]) == status
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] == (status == 0)
    assert [f["part"] for f in said["findings"]][:2] == ["Python", "PyTorch"]


def test_a_message_that_the_terminal_cannot_write_is_still_printed(monkeypatch):
    monkeypatch.setattr(doctor, "look", lambda: {**HEALTHY, "torch": {"error": "fichier ✗"}})
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert doctor.main() == 1
    sys.stdout.seek(0)
    assert "fichier ?" in sys.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["doktor"], "unknown command 'doktor'; did you mean 'doctor'?", id="near miss"
        ),
        pytest.param(["paint"], "unknown command 'paint'\n", id="far miss"),
        pytest.param([], "expected a command, got none", id="none"),
    ],
)
def test_unknown_command_lists_the_commands(capsys, arguments, said):
    assert __main__.main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "python -m labs doctor" in err


def test_limits_are_those_of_the_package():
    project = tomllib.loads((machine.ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    (_, low), (_, high) = doctor._PYTHONS
    assert project["requires-python"] == f">=3.{low},<3.{high + 1}"
    assert f"torch>={'.'.join(map(str, doctor._OLDEST_TORCH))}" in project["dependencies"]


@pytest.mark.parametrize("module", ["__init__", "__main__", "doctor", "machine"])
def test_an_old_python_can_read_it_and_be_told(module):
    source = (machine.ROOT / "labs" / f"{module}.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))


def test_the_real_command_runs(monkeypatch):
    monkeypatch.undo()
    command = [sys.executable, "-m", "labs", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=machine.ROOT)
    assert done.stderr == ""
    assert done.returncode == ("Every lesson can run here." not in done.stdout)
    version = ".".join(map(str, sys.version_info[:3]))
    assert re.match(rf"Python +ok +{re.escape(version)} ", done.stdout)


def test_the_real_command_survives_broken_libraries(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError({NMS['error'][14:]!r})")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart.so.12')")
    (tmp_path / "jupyter_client.py").write_text("import no_such_module")
    (tmp_path / "psutil.py").write_text("raise ImportError('wrong ELF class')")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PATH": str(Path(sys.executable).parent),
    }
    command = [sys.executable, "-m", "labs", "doctor", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=machine.ROOT, env=environment
    )
    assert done.returncode == 1, done.stderr
    findings = {f["part"].strip(): f for f in json.loads(done.stdout)["findings"]}
    assert "status -6" in findings["PyTorch"]["seen"]
    assert findings["ONNX Runtime"]["seen"] == "ImportError: libcudart.so.12"
    assert findings["Jupyter kernel"]["status"] == "missing"
    assert findings["Graphviz"]["status"] == "missing"
    assert "wrong ELF class" in findings["Free memory"]["seen"]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ((3, 9, 19), "broken"),
        ((3, 10, 14), "broken"),
        ((3, 11, 0), "ok"),
        ((3, 13, 0), "ok"),
        ((3, 13, 5), "ok"),
        ((3, 14, 0), "broken"),
        ((3, 100, 0), "broken"),
        ((4, 0, 0), "broken"),
    ],
)
def test_a_python_is_judged_by_its_first_two_numbers(version, status):
    facts = {"version": list(version), "path": "/usr/bin/python3"}
    assert doctor._judge_python(facts).status == status


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("1.13.1", "broken"),
        ("2.1.0", "broken"),
        ("2.9.1", "broken"),
        ("2.9.1+cu130", "broken"),
        ("2.10.0", "broken"),
        ("2.11.0", "ok"),
        ("2.11.0+cpu", "ok"),
        ("2.12.0a0+git12ab34", "ok"),
        ("2.14.1+cu130", "ok"),
        ("2.100.0", "ok"),
        ("3.0.0", "ok"),
        ("10.0.0", "ok"),
    ],
)
def test_a_torch_is_judged_by_numbers_and_not_by_letters(version, status):
    facts = {"version": version, "cuda": None, "threads": 1}
    found = doctor._judge_torch(facts)
    assert found.status == status
    assert ("expected 2.11 or newer" in found.seen) == (status == "broken")


def test_every_command_is_listed_and_runs(monkeypatch, capsys):
    monkeypatch.undo()
    assert __main__.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"labs {name} " in said for name in ("doctor", "hunts", "recipes"))
    for name in __main__.COMMANDS:
        try:  # argparse ends by raising, which PyTorch's wrapper of `recipes` turns into a return
            status = __main__.main([name, "--help"])
        except SystemExit as ended:
            status = ended.code
        assert status == 0
        assert "usage: " in capsys.readouterr().out


def test_the_hunts_are_those_of_the_package_with_their_lessons(monkeypatch, capsys):
    monkeypatch.undo()
    from labs.hunts.listing import hunts

    assert __main__.main(["hunts"]) == 0
    out = capsys.readouterr().out
    found = hunts()
    assert len(found.table()) == len({hunt.check for hunt in found.hunts}) >= 18
    for hunt in found.hunts:
        assert (machine.ROOT / "lessons" / f"{hunt.lesson}.py").is_file(), hunt
        assert hunt.what.endswith(".")
        assert hunt.check in out
        _, module, _, function = hunt.check.split()
        assert callable(getattr(importlib.import_module(module), function))


def test_a_worker_that_a_person_calls_says_what_it_is(monkeypatch):
    monkeypatch.undo()
    command = [sys.executable, "-m", "labs.imagefile"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=machine.ROOT)
    assert done.returncode == 1
    assert "labs.data.scan(folder)" in done.stderr
    assert "Traceback" not in done.stderr
