"""Read and write ONNX files, and what the export noted in them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.extras import optional

_NOTE = "labs.export"
_LARGEST_SINGLE_FILE = 2_000_000_000  # protobuf cannot hold a message of 2 GiB


@dataclass(frozen=True)
class Note:
    """Hold what :func:`labs.export.to_onnx` noted in the file.

    Attributes:
        torch: The version of PyTorch that exported it.
        opset: The version of the ONNX operators it uses.
        dynamic: For each input, its dynamic dimensions and their names.
        example: For each input, the shape of the example.
        arguments: For each argument of ``forward``, the inputs that it became.
        fixed: For each argument that is no tensor, the ``repr`` of the value that it keeps.
    """

    torch: str
    opset: int
    dynamic: dict[str, dict[int, str]]
    example: dict[str, tuple[int, ...]]
    arguments: dict[str, list[str]] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)


def read(path: str | Path) -> Any:
    """Read an ONNX file, with the weights that lie in a file beside it.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is not an ONNX model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no ONNX file at {path}; write it with to_onnx(model, ...)")
    try:
        model = optional("onnx", "labs.export").load(path)
    except optional("google.protobuf.message", "labs.export").DecodeError as error:
        raise ValueError(f"expected an ONNX model at {path}, got something else") from error
    if not model.opset_import or not model.graph.output:
        raise ValueError(f"expected an ONNX model at {path}, got something else")
    return model


def write(model: Any, path: str | Path) -> Path:
    """Write a model to one file, or above 2 GB to ``NAME.onnx`` and ``NAME.onnx.data``.

    Whoever opens ``path`` meanwhile sees the old file or the new one, and never half of one.
    """
    path = Path(path)
    apart = _weight_bytes(model) >= _LARGEST_SINGLE_FILE
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new, weights = Path(folder) / path.name, f"{path.name}.data"
        optional("onnx", "labs.export").save(
            model, new, save_as_external_data=apart, location=weights
        )
        if apart:
            os.replace(Path(folder) / weights, path.with_name(weights))
        os.replace(new, path)
    return path


@contextmanager
def loadable(model: Any) -> Iterator[bytes | str]:
    """Yield what ONNX Runtime can load: bytes, or a temporary file when it is too large."""
    if _weight_bytes(model) < _LARGEST_SINGLE_FILE:
        yield model.SerializeToString()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(write(model, Path(folder) / "model.onnx"))


def note(model: Any) -> Note | None:
    """Read what :func:`labs.export.to_onnx` noted; ``None`` for a file that another tool made."""
    return read_note({entry.key: entry.value for entry in model.metadata_props})


def read_note(metadata: Mapping[str, str]) -> Note | None:
    """Read the note in the metadata of a model, as ONNX Runtime gives them too."""
    if _NOTE not in metadata:
        return None
    facts = json.loads(metadata[_NOTE])
    dynamic = {n: {int(d): s for d, s in dims.items()} for n, dims in facts["dynamic"].items()}
    example = {name: tuple(shape) for name, shape in facts["example"].items()}
    return Note(**{**facts, "dynamic": dynamic, "example": example})


def write_note(model: Any, facts: Note) -> None:
    """Add the note to the metadata of a model in memory."""
    model.metadata_props.add(key=_NOTE, value=json.dumps(vars(facts)))


def shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    """Return the declared shape of each input or output.

    A dynamic dimension is its name, or ``VALUE_INDEX`` where the file gives it none.

    Args:
        values: ``model.graph.input`` or ``model.graph.output``.
    """
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{index}"
            for index, dim in enumerate(value.type.tensor_type.shape.dim)
        )
        for value in values
    }


def input_values(model: Any) -> list[Any]:
    """Return the inputs that a caller feeds; old files list the weights among the inputs."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _weight_bytes(model: Any) -> int:
    return sum(len(weight.raw_data) for weight in model.graph.initializer)
