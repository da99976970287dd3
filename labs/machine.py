"""See what this machine has: software, GPU, tools and the space left.

Only the standard library is imported here. What may be broken (PyTorch, ONNX Runtime, the Jupyter
kernel) is imported in a Python of its own, so that a crash there is a fact, and not the end.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]

_PATIENCE_SECONDS = 120
_ANSWER = "labs.machine sees "
ROOT = Path(__file__).resolve().parent.parent

# An ONNX model that returns its input, as bytes: the onnx package may be what is missing.
_IDENTITY_ONNX = bytes.fromhex(
    "08083a370a100a01781201792208 4964656e7469747912 0167"
    "5a0f0a0178120a0a08080112040a020801 620f0a0179120a0a08080112040a020801 42040a001011"
)


def look() -> dict[str, Facts]:
    """Look at everything at once; takes about as long as ``import torch``, and never raises.

    Returns:
        One entry per thing looked at (``python``, ``torch``, ``gpu``, ``provider=CPU…``, …). Where
        looking failed, the entry holds ``error``, its first line, and ``absent``, the module or
        command that is not there, if that was the reason.
    """
    with ThreadPoolExecutor(16) as pool:
        apart = pool.submit(_ask, *_APART), pool.submit(_ask_onnxruntime)
        here = {name: pool.submit(_guarded, see) for name, see in _HERE.items()}
        facts = {name: future.result() for name, future in here.items()}
        for future in apart:
            facts.update(future.result())
    return facts


def look_at_provider(name: str) -> dict[str, Facts]:
    """Look only at the driver and at one execution provider of ONNX Runtime; never raises."""
    asked = f"provider={name}"
    return {"driver": _guarded(_see_driver), "provider": _ask(asked)[asked]}


def first_line(said: object) -> str:
    """Return the first line that says something, without colours; of an error, with its type."""
    try:
        written = str(said)
    except Exception as broken:  # what explains an error must not be one
        written = f"it cannot be written: {type(broken).__name__}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", written).strip()
    line = text.splitlines()[0].strip() if text else ""
    is_error = isinstance(said, BaseException) and not isinstance(said, Warning)
    return f"{type(said).__name__}: {line}" if is_error else line


# --- In a Python of its own --------------------------------------------------------------------


def _see_torch() -> Facts:
    import torch

    threads = torch.get_num_threads()
    return {"version": str(torch.__version__), "cuda": torch.version.cuda, "threads": threads}


def _see_gpu() -> Facts:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            return {"why_none": first_line(caught[-1].message) if caught else ""}
    torch.ones(2, device="cuda").sum().item()  # a GPU too old for this build fails only here
    free, total = torch.cuda.mem_get_info()
    return {"name": torch.cuda.get_device_name(), "free_gb": free / 1e9, "total_gb": total / 1e9}


def _see_torchvision() -> Facts:
    import torch
    import torchvision

    # A torchvision built for another torch may import, and fail when an operator is called.
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return {"version": str(torchvision.__version__)}


def _see_onnxruntime() -> Facts:
    ort = importlib.import_module("onnxruntime")
    names = "onnxruntime", "onnxruntime-gpu"
    return {
        "version": ort.__version__,
        "providers": list(ort.get_available_providers()),
        "cuda": getattr(ort, "cuda_version", None),
        "packages": [name for name in names if _is_installed(name)],
    }


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _see_provider(name: str) -> Facts:
    ort = importlib.import_module("onnxruntime")
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that PyTorch brought
    # The list of available providers is what was compiled in. Only a session loads the library,
    # and when it cannot, ONNX Runtime says so on stderr and quietly takes the CPU.
    session = ort.InferenceSession(_IDENTITY_ONNX, providers=[name])
    return {"loaded": name in session.get_providers()}


def _see_kernel() -> Facts:
    importlib.import_module("ipykernel")
    specs = importlib.import_module("jupyter_client.kernelspec").KernelSpecManager()
    spec = specs.get_kernel_spec("python3")
    return {"starts": spec.argv[0], "folder": spec.resource_dir}


_LOOKS: Mapping[str, Callable[..., Facts]] = {
    "torch": _see_torch,
    "gpu": _see_gpu,
    "torchvision": _see_torchvision,
    "onnxruntime": _see_onnxruntime,
    "provider": _see_provider,
    "kernel": _see_kernel,
}
_APART = "kernel", "torch", "torchvision", "gpu"  # these share one Python, as long as it lives


def _answer(*looks: str) -> None:
    """Print the facts of each look as one line of JSON; runs in the Python that may crash."""
    for asked in looks:
        name, _, argument = asked.partition("=")
        facts = _guarded(partial(_LOOKS[name], *filter(None, [argument])))
        print(f"\n{_ANSWER}{json.dumps({asked: facts})}", flush=True)


def _guarded(see: Callable[[], Facts]) -> Facts:
    try:
        return see()
    except ModuleNotFoundError as absent:
        return {"error": first_line(absent), "absent": absent.name}
    except BaseException as error:  # a broken library may even call sys.exit
        return {"error": first_line(error)}


def _ask(*looks: str) -> dict[str, Facts]:
    """Look from a new Python, and return the facts of each look, whatever happens to it.

    When a look takes that Python down, those that come after it get another one.
    """
    source = f"import sys; sys.path.append({str(ROOT)!r}); from labs import machine"
    code = f"{source}; machine._answer(*sys.argv[1:])"
    status, out, err = _run(sys.executable, "-c", code, *looks)
    answers: dict[str, Facts] = {}
    for line in out.splitlines():
        if line.startswith(_ANSWER):  # a library may print lines of its own
            with suppress(ValueError):  # cut short by the crash
                answers.update(json.loads(line[len(_ANSWER) :]))
    facts: dict[str, Facts] = {
        asked: {"stderr": err, **answers[asked]} for asked in looks if asked in answers
    }
    unanswered = [asked for asked in looks if asked not in facts]
    if not unanswered:
        return facts
    last_words = (err.strip().splitlines() or ["it said nothing"])[-1]
    crash = {"error": f"Python ended with status {status}: {last_words}", "stderr": err}
    rest = _ask(*unanswered[1:]) if unanswered[1:] else {}
    return {**facts, unanswered[0]: crash, **rest}


def _ask_onnxruntime() -> dict[str, Facts]:
    found = _ask("onnxruntime")
    providers = [f"provider={name}" for name in found["onnxruntime"].get("providers", ())]
    with ThreadPoolExecutor() as pool:  # one Python each: a crash takes no other provider along
        for facts in pool.map(_ask, providers):
            found.update(facts)
    return found


def _run(*command: str) -> tuple[int, str, str]:
    """Run a command, and return its exit status, stdout and stderr; never raise."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return -1, "", first_line(error)
    return done.returncode, done.stdout, done.stderr


# --- Here: what cannot crash this Python -------------------------------------------------------


def _see_python() -> Facts:
    return {"version": list(sys.version_info[:3]), "path": sys.executable}


def _see_driver() -> Facts:
    return _see_command(("nvidia-smi",), "--query-gpu=driver_version", "--format=csv,noheader")


def _see_command(commands: tuple[str, ...], *arguments: str, says: str = "") -> Facts:
    """Run the first of these commands whose answer ``says`` its name, and return its version."""
    facts: Facts = {"error": f"{' or '.join(commands)} not found", "absent": commands[0]}
    for command in filter(shutil.which, commands):
        status, out, err = _run(command, *arguments)
        said = first_line(out or err)
        version = re.search(r"\d+(\.\d+)+(-\d+)?", said)
        if says not in said:  # on Windows, convert.exe converts disks and not images
            continue
        if status == 0 and version:
            return {"version": version.group(), "command": command}
        facts = {"error": f"{command}: {said or f'ended with status {status}'}"}
    return facts


def _see_chromium() -> Facts:
    # It is found and not run: on Windows, asking for the version opens a window.
    names = ["chromium", "chromium-browser", "google-chrome", "chrome"]
    apps = ["/Applications/Chromium.app", "/Applications/Google Chrome.app"]
    for found in [*filter(shutil.which, names), *(app for app in apps if Path(app).exists())]:
        return {"version": "", "command": found}
    return {"error": f"{names[0]} or {names[2]} not found", "absent": names[0]}


def _see_disk() -> Facts:
    return {"free_gb": shutil.disk_usage(".").free / 1e9}


def _see_memory() -> Facts:
    return {"free_gb": importlib.import_module("psutil").virtual_memory().available / 1e9}


def _see_threads() -> Facts:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores this process may use
    return {"cores": len(affinity(0)) if affinity else os.cpu_count() or 1}


_HERE: Mapping[str, Callable[[], Facts]] = {
    "python": _see_python,
    "driver": _see_driver,
    "graphviz": partial(_see_command, ("dot",), "-V"),
    "imagemagick": partial(_see_command, ("magick", "convert"), "-version", says="ImageMagick"),
    "chromium": _see_chromium,
    "disk": _see_disk,
    "memory": _see_memory,
    "threads": _see_threads,
}
