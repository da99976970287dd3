"""Run an ONNX file with ONNX Runtime, on the best device that works."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from labs.doctor import why_not
from labs.export import onnx_file
from labs.extras import optional
from labs.hooks.nested import tensors
from labs.near_miss import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

# What ONNX Runtime calls the types, where PyTorch says otherwise or the same.
_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bfloat16", "bool", "uint8")},
    **{f"tensor({name})": name for name in ("int8", "int16", "int32", "int64")},
}
CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@dataclass(frozen=True, repr=False, eq=False)
class Session:
    """Hold a loaded ONNX model; call it like the PyTorch model it came from.

    Attributes:
        runtime: The ``onnxruntime.InferenceSession``.
        provider: What computes: the first of the providers in use.
        fallback: One line for each provider that was asked for and is not in use; often none.
        threads: How many CPU threads an operator may use.
        asked: The providers that were asked for, in the order of preference.
    """

    runtime: Any
    provider: str
    fallback: tuple[str, ...]
    threads: int
    asked: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each input; a dynamic dimension is its name."""
        return {value.name: tuple(value.shape) for value in self.runtime.get_inputs()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs, in their order."""
        return tuple(value.name for value in self.runtime.get_outputs())

    @property
    def keywords(self) -> set[str]:
        """Return the names that arguments may have: those of ``forward`` and of the inputs."""
        return set(self._owners())

    @property
    def device(self) -> str:
        """Return ``cuda`` or ``cpu``: where the inputs are best kept."""
        return "cuda" if self.provider in (CUDA, TENSORRT) else "cpu"

    def feed(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Return the arguments as NumPy arrays by input name, as ``runtime.run`` wants them.

        Args:
            arguments: What the PyTorch model takes: tensors or NumPy arrays, or dicts, lists and
                tuples of them.
            named: The keyword arguments of the PyTorch model, or inputs of the file by name.

        Raises:
            TypeError: When there are more or fewer arrays than inputs, an array has another type
                than its input, or an argument differs from what the file has fixed.
        """
        types = {value.name: value.type for value in self.runtime.get_inputs()}
        given: dict[str, Tensor] = {}
        for key, value in named.items():
            given |= self._named(key, value)
        rest = [name for name in types if name not in given]
        loose = _all(arguments)
        if len(loose) != len(rest):
            raise TypeError(
                f"expected {len(rest)} tensors ({', '.join(rest)}), got {len(loose)}; pass what "
                "the PyTorch model takes"
            )
        given |= zip(rest, loose, strict=True)
        return {name: _array(name, given[name], kind) for name, kind in types.items()}

    def _named(self, key: str, value: Any) -> dict[str, Tensor]:
        """Return the tensors of one keyword argument by the names of the inputs they go to."""
        arguments = self._owners()
        if key not in arguments:
            known = ", ".join(arguments)
            raise TypeError(
                f"expected an argument among {known}, got {key!r}{did_you_mean(key, arguments)}"
            )
        fixed = noted.fixed if (noted := self._note()) else {}
        if fixed.get(key, repr(value)) != repr(value):
            raise TypeError(
                f"the file was exported with {key}={fixed[key]} and keeps it, got "
                f"{key}={value!r}; export another file for that"
            )
        inputs, parts = arguments[key], _all(value)
        if len(inputs) != len(parts):
            raise TypeError(f"expected {len(inputs)} tensors in {key!r}, got {len(parts)}")
        return dict(zip(inputs, parts, strict=True))

    def _owners(self) -> dict[str, list[str]]:
        """Return, for each argument that can be named, the inputs that it becomes."""
        noted = self._note()
        return {name: [name] for name in self.inputs} | (noted.arguments if noted else {})

    def _note(self) -> onnx_file.Note | None:
        return onnx_file.read_note(self.runtime.get_modelmeta().custom_metadata_map)

    def __call__(self, *arguments: Any, **named: Any) -> tuple[Tensor, ...]:
        """Compute every output, as CPU tensors in the order of ``outputs``.

        Args:
            arguments: What the PyTorch model takes: tensors or NumPy arrays, or dicts, lists and
                tuples of them.
            named: Its keyword arguments.

        Raises:
            RuntimeError: When ONNX Runtime refuses a shape or fails; its own words.
            TypeError: As :meth:`feed`.
        """
        feed = self.feed(*arguments, **named)
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
    return _start(str(path), (CUDA,) if providers is None else providers, threads)


def _start(
    model: bytes | str, providers: Sequence[str] = (), threads: int | None = None
) -> Session:
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
    return Session(runtime, used[0], fallback, threads, tuple(asked))


def _all(value: Any) -> list[Tensor]:
    """Return every tensor in ``value``, and every NumPy array as a tensor."""
    return tensors(_as_tensors(value))


def _as_tensors(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return torch.as_tensor(np.ascontiguousarray(value) if value.ndim else np.array(value))
    if isinstance(value, Mapping):
        return {key: _as_tensors(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_as_tensors(part) for part in value)
    return value


def _array(name: str, tensor: Tensor, kind: str) -> Any:
    """Return the NumPy array of an input, or say that its type is another than the file's."""
    got = str(tensor.dtype).removeprefix("torch.")
    want = _TYPES.get(kind, got)
    if got != want:
        raise TypeError(
            f"input {name!r}: expected {want}, got {got}; convert it with .to(torch.{want}), or "
            f".astype({want!r}) in NumPy"
        )
    return tensor.detach().cpu().contiguous().numpy()


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
        return _start(source)
