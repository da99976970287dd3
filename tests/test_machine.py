"""Look at a machine whose libraries crash, lie or are not there."""

import subprocess
import sys

import pytest

from labs import machine


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Return a function that puts a fake library in front of the real one, for new Pythons."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")

    return write


RUNTIME = """
import os, sys
__version__, cuda_version = "9.9", "12.4"
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
class InferenceSession:
    def __init__(self, model, providers):
        self.asked = providers[0]
        if self.asked.startswith("CUDA"):
            os.abort()
        if self.asked.startswith("Tensorrt"):
            print("Failed to load library x.so with error: libnvinfer.so.10: no", file=sys.stderr)
    def get_providers(self):
        return [self.asked] if self.asked.startswith("CPU") else ["CPUExecutionProvider"]
"""


def test_look_sees_this_machine():
    facts = machine.look()
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    assert facts["python"] == {"version": list(sys.version_info[:3]), "path": sys.executable}
    assert facts["torch"]["version"] == str(torch.__version__)
    assert facts["torch"]["cuda"] == torch.version.cuda
    assert facts["torchvision"]["version"] == torchvision.__version__
    assert ("name" in facts["gpu"]) == torch.cuda.is_available()
    assert facts["disk"]["free_gb"] > 0
    assert facts["threads"]["cores"] >= 1


def test_a_real_cpu_provider_loads():
    pytest.importorskip("onnxruntime")
    asked = "provider=CPUExecutionProvider"
    assert machine._ask(asked)[asked]["loaded"] is True


def test_looking_imports_nothing_heavy():
    code = "import sys; import labs.machine, labs.doctor, labs.__main__; print(*sys.modules)"
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=machine.ROOT)
    assert not {"torch", "numpy", "pandas", "onnxruntime"} & set(out.split())


@pytest.mark.parametrize(
    ("source", "error"),
    [
        pytest.param(
            "raise OSError('libcudart.so.13: no\\nmore')",
            "OSError: libcudart.so.13: no",
            id="raises",
        ),
        pytest.param("import sys; sys.exit(3)", "SystemExit: 3", id="exits"),
        pytest.param(
            "import no_such_thing",
            "ModuleNotFoundError: No module named 'no_such_thing'",
            id="needs",
        ),
        pytest.param(
            "x = 1", "AttributeError: module 'torch' has no attribute 'get_num_threads'", id="empty"
        ),
    ],
)
def test_a_broken_library_is_its_first_error_line(library, source, error):
    library("torch", source)
    facts = machine._ask("torch")["torch"]
    assert facts["error"] == error
    assert facts.get("absent") in (None, "no_such_thing")


def test_a_crash_is_a_fact_and_takes_no_other_fact_along(library):
    library("torch", "__version__ = '1'\nclass version: cuda = None\nget_num_threads = int")
    library("torchvision", "import os; os.abort()")
    facts = machine._ask("torch", "torchvision", "kernel")
    assert facts["torch"]["version"] == "1"
    assert facts["torchvision"]["error"].startswith("Python ended with status -6")
    assert "starts" in facts["kernel"]


def test_what_a_library_prints_is_not_taken_for_an_answer(library):
    library("torch", f"print('hello\\n{machine._ANSWER}cut')\nraise ImportError('no')")
    assert machine._ask("torch")["torch"]["error"] == "ImportError: no"


def test_each_provider_is_loaded_by_itself(library):
    library("onnxruntime", RUNTIME)
    facts = machine._ask_onnxruntime()
    assert facts["onnxruntime"]["cuda"] == "12.4"
    assert facts["provider=CPUExecutionProvider"]["loaded"] is True
    assert "status -6" in facts["provider=CUDAExecutionProvider"]["error"]
    assert facts["provider=TensorrtExecutionProvider"]["loaded"] is False
    assert "libnvinfer.so.10" in facts["provider=TensorrtExecutionProvider"]["stderr"]


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(machine, "_PATIENCE_SECONDS", 0.1)
    status, _, err = machine._run(sys.executable, "-c", "import time; time.sleep(60)")
    assert status == -1
    assert err.startswith("TimeoutExpired")


def test_a_kernel_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": [], "display_name": "no"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert machine._ask("kernel")["kernel"]["error"] == "IndexError: list index out of range"


@pytest.mark.skipif(sys.platform == "win32", reason="needs shell scripts")
@pytest.mark.parametrize(
    ("script", "facts"),
    [
        pytest.param(
            "echo 'Version: ImageMagick 7.1.1-47 Q16'",
            {"version": "7.1.1-47", "command": "magick"},
            id="there",
        ),
        pytest.param(
            "echo 'Converts FAT volumes 1.0'",
            {"error": "magick or convert not found", "absent": "magick"},
            id="another tool of that name",
        ),
        pytest.param(
            "echo 'ImageMagick: no delegates'; exit 1",
            {"error": "magick: ImageMagick: no delegates"},
            id="broken",
        ),
    ],
)
def test_a_tool_is_known_by_what_it_says(tmp_path, monkeypatch, script, facts):
    (tmp_path / "magick").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "magick").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._HERE["imagemagick"]() == facts


def test_first_line_drops_colours_and_names_errors():
    assert machine.first_line("\n\x1b[31mred\x1b[0m\nmore") == "red"
    assert machine.first_line(ValueError("a\nb")) == "ValueError: a"
    assert machine.first_line(UserWarning("old driver")) == "old driver"
    assert machine.first_line("") == ""
