"""Tell what this machine can do, and which command mends what it cannot."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labs.machine import ROOT, Facts, look, look_at_provider

if TYPE_CHECKING:
    import pandas as pd

_PYTHONS = (3, 11), (3, 13)  # the oldest and the newest that the book supports, both included
_OLDEST_TORCH = (2, 11)
_LEAST_FREE_GB = 1.0
_NO_NEED = "nothing to mend: every lesson runs on the CPU"


@dataclass(frozen=True)
class Finding:
    """Hold what the doctor found of one part of the machine.

    Attributes:
        part: What was examined.
        status: ``ok``, ``missing`` or ``broken``.
        seen: The version, the amount, or the first line of the error.
        mend: The command that mends it, or why nothing has to be mended. Empty when ``ok``.
        needed: Whether a lesson cannot run while this is not ``ok``.
    """

    part: str
    status: str
    seen: str
    mend: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Report:
    """Hold every finding about this machine."""

    findings: tuple[Finding, ...]

    @property
    def stoppers(self) -> tuple[str, ...]:
        """Name the parts for which a lesson cannot run."""
        return tuple(f.part for f in self.findings if f.needed and f.status != "ok")

    @property
    def ready(self) -> bool:
        """Tell whether every lesson can run here."""
        return not self.stoppers

    def table(self) -> pd.DataFrame:
        """Return one row per part: ``part``, ``status``, ``seen``, ``mend``, ``needed``."""
        import pandas as pd

        return pd.DataFrame([asdict(finding) for finding in self.findings])

    def __repr__(self) -> str:
        width = max((len(f.part) for f in self.findings), default=0)
        lines = []
        for f in self.findings:
            lines.append(f"{f.part:<{width}}  {f.status:<7}  {f.seen}".rstrip())
            lines += [f"{'':<{width}}           -> {f.mend}"] if f.mend else []
        verdict = f"Some lesson cannot run here. Mend first: {', '.join(self.stoppers)}."
        return "\n".join([*lines, "", "Every lesson can run here." if self.ready else verdict])


def examine_machine() -> Report:
    """Examine Python, PyTorch, the GPU, ONNX Runtime, Jupyter, the tools and the space left.

    Takes about as long as ``import torch``. Nothing is installed, changed or sent, and whatever
    is broken becomes a finding: no exception leaves this function.

    Returns:
        The report, with ``.ready`` and ``.table()``; its ``repr`` is the table for a terminal.
    """
    return _judge(look())


def _judge(facts: Mapping[str, Facts]) -> Report:
    """Turn the facts of :func:`labs.machine.look` into findings, each with its mend."""
    torch, ort, driver = facts["torch"], facts["onnxruntime"], facts["driver"]
    gpu_here = "version" in driver or "name" in facts["gpu"]
    loads = {n: facts[f"provider={n}"] for n in ort.get("providers", ())}
    findings = (
        _judge_python(facts["python"]),
        _judge_torch(torch),
        _judge_torchvision(facts["torchvision"]),
        _judge_driver(driver),
        _judge_gpu(facts["gpu"], torch, driver),
        _judge_onnxruntime(ort),
        *(_judge_provider(name, loaded, gpu_here) for name, loaded in loads.items()),
        *_judge_cpu_build(loads, gpu_here),
        _judge_cuda(torch, ort),
        _judge_kernel(facts["kernel"]),
        _judge_tool("Graphviz", facts["graphviz"], "graphviz", "draws computation graphs"),
        _judge_tool("ImageMagick", facts["imagemagick"], "imagemagick", "shrinks images"),
        _judge_tool("Chromium", facts["chromium"], "chromium", "tests the rendered book"),
        _judge_space("Free disk", facts["disk"], "delete files that you no longer need"),
        _judge_space("Free memory", facts["memory"], "close programs and kernels you do not use"),
        _judge_threads(facts["threads"], torch),
    )
    return Report(findings)


def why_not(provider: str) -> str:
    """Say in one line why ONNX Runtime cannot use a provider here; ``""`` when it can.

    The provider is loaded in a Python of its own, where a crash or a line on stderr hurts nobody.

    Args:
        provider: Its full name, such as ``CUDAExecutionProvider``.
    """
    facts = look_at_provider(provider)
    finding = _judge_provider(provider, facts["provider"], "version" in facts["driver"])
    return "" if finding.status == "ok" else finding.seen


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; return 1 when some lesson cannot run on this machine, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m labs doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    as_json = parser.parse_args(list(arguments)).json
    report = examine_machine()
    text = json.dumps({"ready": report.ready, **asdict(report)}, indent=2) if as_json else report
    encoding = sys.stdout.encoding or "ascii"  # an error message may hold what it cannot write
    print(str(text).encode(encoding, "replace").decode(encoding))
    return 0 if report.ready else 1


def _judge_python(facts: Facts) -> Finding:
    oldest, newest = (".".join(map(str, version)) for version in _PYTHONS)
    seen = f"{'.'.join(map(str, facts['version']))} ({_short(facts['path'])})"
    if _PYTHONS[0] <= tuple(facts["version"][:2]) <= _PYTHONS[1]:
        return Finding("Python", "ok", seen, needed=True)
    mend = f"{_system('python')} (a version from {oldest} to {newest}), then make lab"
    return Finding("Python", "broken", f"{seen}; expected {oldest} to {newest}", mend, needed=True)


def _judge_torch(facts: Facts) -> Finding:
    mend = _pip("torch", "torchvision")
    if "error" in facts:
        return _failed("PyTorch", "torch", facts, mend, needed=True)
    seen = f"{facts['version']}, {_build(facts)}"
    if tuple(int(n) for n in re.findall(r"\d+", facts["version"])[:2]) >= _OLDEST_TORCH:
        return Finding("PyTorch", "ok", seen, needed=True)
    seen += f"; expected {'.'.join(map(str, _OLDEST_TORCH))} or newer"
    return Finding("PyTorch", "broken", seen, mend, needed=True)


def _judge_torchvision(facts: Facts) -> Finding:
    if "error" in facts:
        return _failed("torchvision", "torchvision", facts, _reinstall_torch(), needed=True)
    return Finding("torchvision", "ok", f"{facts['version']}, works with PyTorch", needed=True)


def _judge_driver(facts: Facts) -> Finding:
    if "version" in facts:
        return Finding("NVIDIA driver", "ok", facts["version"])
    if "absent" in facts:
        return Finding("NVIDIA driver", "missing", facts["error"], _NO_NEED)
    # After an upgrade, the loaded kernel module and the new library disagree until a restart.
    mend = "restart the machine; if that does not help, install the driver again"
    return Finding("NVIDIA driver", "broken", facts["error"], mend)


def _judge_gpu(facts: Facts, torch: Facts, driver: Facts) -> Finding:
    if "name" in facts:
        memory = f"{facts['free_gb']:.1f} of {facts['total_gb']:.1f} GB free"
        return Finding("GPU", "ok", f"{facts['name']}, {memory}")
    if "error" in torch:
        return Finding("GPU", "missing", "PyTorch cannot look for it", "mend PyTorch first")
    if "error" in facts:
        return Finding("GPU", "broken", facts["error"], _reinstall_torch())
    if "version" not in driver:
        mend = _NO_NEED if "absent" in driver else "mend the driver first"
        return Finding("GPU", "missing", "PyTorch sees none", mend)
    seen = f"the driver works, but PyTorch sees no GPU. {facts['why_none']}".strip()
    return Finding("GPU", "broken", seen, _mend_unseen_gpu(torch))


def _mend_unseen_gpu(torch: Facts) -> str:
    if not torch["cuda"]:
        return _reinstall_torch()
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    return f"install an NVIDIA driver that supports CUDA {torch['cuda']}"


def _judge_onnxruntime(facts: Facts) -> Finding:
    part = "ONNX Runtime"
    if "error" in facts:
        return _failed(part, "onnxruntime", facts, _pip(_runtime_package()), needed=True)
    if len(facts["packages"]) > 1:
        seen = f"{facts['version']}; {' and '.join(facts['packages'])} overwrite each other"
        return Finding(part, "broken", seen, _reinstall(facts["packages"], _runtime_package()))
    return Finding(part, "ok", f"{facts['version']}, {_build(facts)}", needed=True)


def _judge_provider(provider: str, facts: Facts, gpu_here: bool) -> Finding:
    name = provider.replace("ExecutionProvider", "")
    part, needed = f"  {name} provider", name == "CPU"
    if facts.get("loaded"):
        return Finding(part, "ok", "loads", needed=needed)
    if name in ("CUDA", "Tensorrt") and not gpu_here:
        return Finding(part, "missing", "listed, cannot load without a GPU", _NO_NEED)
    why = facts.get("error") or _why_not_loaded(facts["stderr"])
    if name == "Tensorrt":
        page = "https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html"
        return Finding(part, "missing", why, f"optional, makes inference faster: {page}")
    return Finding(part, "broken", why, _pip(_runtime_package()), needed)


def _why_not_loaded(stderr: str) -> str:
    reason = re.search(r"(?<=with error: ).+|Please install .+", stderr)
    return f"listed, but falls back to the CPU. {reason.group() if reason else ''}".strip()


def _judge_cpu_build(providers: Mapping[str, Facts], gpu_here: bool) -> list[Finding]:
    if not gpu_here or not providers or "CUDAExecutionProvider" in providers:
        return []
    mend = _reinstall(["onnxruntime"], "onnxruntime-gpu")
    return [Finding("  CUDA provider", "missing", "not in this build; there is a GPU", mend)]


def _judge_cuda(torch: Facts, ort: Facts) -> Finding:
    ours, theirs = torch.get("cuda"), ort.get("cuda")
    if not ours or not theirs:
        return Finding("CUDA versions", "ok", "nothing to compare: not both are built for CUDA")
    seen = f"PyTorch {ours}, ONNX Runtime {theirs}"
    if ours.split(".")[0] == theirs.split(".")[0]:
        return Finding("CUDA versions", "ok", f"{seen}: they agree")
    mend = _pip("--upgrade", "torch", "torchvision", "onnxruntime-gpu")
    return Finding("CUDA versions", "broken", f"{seen}: expected one major version", mend)


def _judge_kernel(facts: Facts) -> Finding:
    part, install = "Jupyter kernel", _python("-m", "ipykernel", "install", "--sys-prefix")
    if "error" in facts:
        mend = _pip("ipykernel", "jupyterlab") if "absent" in facts else install
        absent = "absent" in facts or facts["error"].startswith("NoSuchKernel")
        return Finding(part, "missing" if absent else "broken", facts["error"], mend, needed=True)
    starts = Path(facts["starts"])
    here = Path(sys.executable).parent.absolute()
    # Two environments may link to one binary, so their folders are compared, unresolved. For a
    # bare "python", Jupyter puts the Python that it runs on itself.
    if re.fullmatch(r"python[\d.]*", str(starts)) or (
        starts.exists() and starts.parent.absolute() == here
    ):
        return Finding(part, "ok", "python3 starts this Python", needed=True)
    what = "another Python" if starts.exists() else "a Python that is gone"
    seen = f"python3 starts {what}: {_short(str(starts))}"
    # A kernelspec of the user hides the one of the environment, and would go on hiding it.
    remove = _python("-m", "jupyter", "kernelspec", "remove", "python3")
    mend = install if Path(facts["folder"]).is_relative_to(sys.prefix) else f"{remove}; {install}"
    return Finding(part, "broken", seen, mend, needed=True)


def _judge_tool(part: str, facts: Facts, package: str, use: str) -> Finding:
    if "error" not in facts:
        return Finding(part, "ok", f"{facts['command']} {facts['version']}".strip())
    status = "missing" if "absent" in facts else "broken"
    return Finding(part, status, facts["error"], f"optional, {use}: {_system(package)}")


def _judge_space(part: str, facts: Facts, mend: str) -> Finding:
    if "error" in facts:
        mend = _pip("psutil") if "absent" in facts else "change to a folder that exists"
        return Finding(part, "missing", f"cannot be measured: {facts['error']}", mend)
    if facts["free_gb"] >= _LEAST_FREE_GB:
        return Finding(part, "ok", f"{facts['free_gb']:.1f} GB", needed=True)
    seen = f"{facts['free_gb']:.2f} GB; expected at least {_LEAST_FREE_GB:.0f} GB"
    return Finding(part, "broken", seen, mend, needed=True)


def _judge_threads(facts: Facts, torch: Facts) -> Finding:
    if "error" in facts:
        return Finding("CPU threads", "missing", f"cannot be counted: {facts['error']}")
    used = f", PyTorch uses {torch['threads']}" if "threads" in torch else ""
    return Finding("CPU threads", "ok", f"{facts['cores']} cores{used}")


def _failed(part: str, module: str, facts: Facts, mend: str, needed: bool) -> Finding:
    """Tell a module that is not installed from one that is, and does not work."""
    if facts.get("absent") == module:
        return Finding(part, "missing", "not installed", mend, needed)
    return Finding(part, "broken", facts["error"], mend, needed)


def _build(facts: Facts) -> str:
    return f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for the CPU only"


# --- The command that mends it here ------------------------------------------------------------

_INSTALLERS = {
    "brew": "brew install {}",
    "winget": "winget install {}",
    "apt-get": "sudo apt-get install {}",
    "dnf": "sudo dnf install {}",
    "zypper": "sudo zypper install {}",
    "pacman": "sudo pacman -S {}",
    "conda": "conda install -c conda-forge {}",
}
# Where a package manager calls it otherwise.
_PACKAGES = {
    ("brew", "chromium"): "--cask chromium",
    ("winget", "chromium"): "Google.Chrome",
    ("winget", "graphviz"): "Graphviz.Graphviz",
    ("winget", "imagemagick"): "ImageMagick.ImageMagick",
    ("winget", "python"): "Python.Python.3.13",
    ("apt-get", "python"): "python3 python3-venv",
    ("dnf", "imagemagick"): "ImageMagick",
    ("zypper", "imagemagick"): "ImageMagick",
}


def _system(package: str) -> str:
    manager = next(filter(shutil.which, _INSTALLERS), None)
    if manager is None:
        return f"install {package} with your system's package manager"
    return _INSTALLERS[manager].format(_PACKAGES.get((manager, package), package))


def _pip(*packages: str) -> str:
    """Say how to install packages: at the book's own pins where it is, by name elsewhere."""
    if (Path(sys.prefix) / "conda-meta").is_dir() and (ROOT / "environment.yml").is_file():
        return "conda env update --file environment.yml"
    pins = ("-r", "requirements.lock") if (ROOT / "requirements.lock").is_file() else packages
    return _python("-m", "pip", "install", *pins)


def _reinstall(old: Sequence[str], *new: str) -> str:
    # pip takes a +cpu build for the pinned version and leaves it there, hence uninstall first.
    return f"{_python('-m', 'pip', 'uninstall', '--yes', *old)}; {_pip(*new)}"


def _reinstall_torch() -> str:
    return _reinstall(["torch", "torchvision"], "torch", "torchvision")


def _runtime_package() -> str:
    return "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"


def _python(*arguments: str) -> str:
    command = [_short(sys.executable), *arguments]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def _short(path: str) -> str:
    """Write a path inside the project relative to it, where its commands are meant to be run."""
    inside = Path(path).is_relative_to(ROOT)
    return str(Path(path).relative_to(ROOT)) if inside else path
