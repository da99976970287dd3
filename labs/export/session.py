"""Run an ONNX file with ONNX Runtime, on the best device that works."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labs.doctor import why_not
from labs.export import onnx_file
from labs.extras import optional
from labs.hooks.nested import tensors

if TYPE_CHECKING:
    import pandas as pd

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@dataclass(frozen=True, repr=False, eq=False)
class Session:
    """Hold a loaded ONNX model; call it like the PyTorch model it came from.

    Attributes:
        runtime: The ``onnxruntime.InferenceSession``.
        provider: What computes: the first of the providers in use.
        fallback: One line for each provider that was asked for and is not in use; often none.
        threads: How many CPU threads an operator may use.
    """

    runtime: Any
    provider: str
    fallback: tuple[str, ...]
    threads: int

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each input; a dynamic dimension is its name."""
        return {value.name: tuple(value.shape) for value in self.runtime.get_inputs()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs, in their order."""
        return tuple(value.name for value in self.runtime.get_outputs())

    @property
    def device(self) -> str:
        """Return ``cuda`` or ``cpu``: where the inputs are best kept."""
        return "cuda" if self.provider in (CUDA, TENSORRT) else "cpu"

    def feed(self, *arguments: Any) -> dict[str, Any]:
        """Return the arguments as NumPy arrays by input name, as ``runtime.run`` wants them.

        Raises:
            TypeError: When there are more or fewer tensors than inputs.
        """
        given, names = tensors(arguments), list(self.inputs)
        if len(given) != len(names):
            raise TypeError(
                f"expected {len(names)} tensors ({', '.join(names)}), got {len(given)}; pass what "
                "the PyTorch model takes"
            )
        arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in given]
        return dict(zip(names, arrays, strict=True))

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Compute every output, as CPU tensors in the order of ``outputs``.

        Args:
            arguments: What the PyTorch model takes: tensors, or dicts, lists and tuples of them.

        Raises:
            RuntimeError: When ONNX Runtime refuses a shape or fails; its own words.
        """
        feed = self.feed(*arguments)
        return tuple(torch.as_tensor(array) for array in self.runtime.run(None, feed))

    def table(self) -> pd.DataFrame:
        """Return one row per fact, with columns ``what`` and ``value``."""
        import pandas as pd

        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        facts = {
            "provider": self.provider,
            "fallback": "; ".join(self.fallback),
            "threads": self.threads,
            "inputs": shapes,
            "outputs": ", ".join(self.outputs),
        }
        return pd.DataFrame(facts.items(), columns=["what", "value"])

    def __repr__(self) -> str:
        why = "".join(f"; {line}" for line in self.fallback)
        return f"Session({self.provider}, {self.threads} threads{why})"


def session(
    path: str | Path, providers: Sequence[str] | None = None, threads: int | None = None
) -> Session:
    """Load an ONNX file on a GPU where that works, and on the CPU otherwise.

    The CUDA libraries are those of the installed wheels. A provider that cannot work here is left
    out, and ``.fallback`` says why in one line; nothing is printed.

    Args:
        path: The file.
        providers: Names in the order of preference, such as ``["TensorrtExecutionProvider"]``; the
            CPU is always added at the end. CUDA, then CPU, when not given.
        threads: CPU threads for one operator; as many as PyTorch uses when not given.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When onnxruntime is not installed.
        ValueError: When ``threads`` is below 1.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no ONNX file at {path}; write it with to_onnx(model, ...)")
    return start(str(path), (CUDA,) if providers is None else providers, threads)


def start(model: bytes | str, providers: Sequence[str] = (), threads: int | None = None) -> Session:
    """Load a model from a path or from its bytes; see :func:`session`."""
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"session: expected threads >= 1, got {threads}")
    ort = optional("onnxruntime", "labs.export")
    asked = list(dict.fromkeys([*providers, CPU]))
    trouble = {name: _trouble(name) for name in asked}
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is an error is also raised
    usable = [name for name in asked if not trouble[name]]
    runtime = ort.InferenceSession(model, options, providers=usable)
    used = runtime.get_providers()
    trouble |= {name: "it loads, but not for this model" for name in usable if name not in used}
    fallback = tuple(f"{name}: {why}" for name, why in trouble.items() if why)
    return Session(runtime, used[0], fallback, threads)


@cache
def _trouble(provider: str) -> str:
    ort = optional("onnxruntime", "labs.export")
    here = ort.get_available_providers()
    if provider not in here:
        return f"not in this build of ONNX Runtime, which has {', '.join(here)}"
    if provider == CPU:
        return ""
    if not (why := why_not(provider)) and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which libraries it missed
            ort.preload_dlls()
    return why


def load(model: Any) -> Session:
    """Load an ``onnx.ModelProto`` on the CPU, where the reference of every comparison runs."""
    with onnx_file.loadable(model) as source:
        return start(source)
