"""Check that an ONNX file is valid, and that its dynamic dimensions really are dynamic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from labs.export import onnx_file
from labs.export.session import Session, load
from labs.extras import optional
from labs.machine import first_line

if TYPE_CHECKING:
    import pandas as pd

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Finding:
    """Hold one thing that was checked.

    Attributes:
        what: What was checked: ``format``, ``shapes``, or a dynamic dimension with the size tried.
        ok: Whether it holds.
        seen: What was seen.
    """

    what: str
    ok: bool
    seen: str


@dataclass(frozen=True, repr=False)
class Check:
    """Hold what :func:`check` found out about a file.

    Attributes:
        findings: Everything that was checked.
        inputs: The declared shape of each input; a dynamic dimension is its name.
        outputs: The declared shape of each output.
        opset: The version of the ONNX operators.
    """

    findings: tuple[Finding, ...]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    opset: int

    @property
    def ok(self) -> bool:
        """Tell whether everything holds."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Say in one line each what does not hold."""
        return tuple(f"{f.what}: {f.seen}" for f in self.findings if not f.ok)

    def table(self) -> pd.DataFrame:
        """Return one row per finding: ``what``, ``ok``, ``seen``."""
        import pandas as pd

        return pd.DataFrame([asdict(finding) for finding in self.findings])

    def __repr__(self) -> str:
        lines = [f"{'ok ' if f.ok else 'BAD'}  {f.what}: {f.seen}" for f in self.findings]
        return "\n".join(lines)


def check(
    path: str | Path,
    sizes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Sequence[str] = (),
) -> Check:
    """Check the file's format and shapes, then run it with other sizes of each dynamic dimension.

    A dimension that is dynamic in name only is found by running: another size is refused, or an
    output does not follow its declared shape. The *folded batch* is found too: the input's first
    dimension is dynamic, and the first dimension of an output does not change with it.

    Args:
        path: The file, from :func:`labs.export.to_onnx` or any other tool.
        sizes: For each dynamic dimension, the sizes to try. Without it, a batch is tried at 1 and
            at other sizes than the example's, and any other dimension at 32 more than there.
        dynamic: Names that must be dynamic dimensions of some input.

    Returns:
        The report. It does not raise for a bad model: read ``.ok``, ``.problems``, ``.table()``.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When onnx or onnxruntime is not installed.
        KeyError: When ``sizes`` names a dimension that the file does not have.
        ValueError: When the file is not an ONNX model.
    """
    model = onnx_file.read(path)
    inputs = onnx_file.shapes(onnx_file.input_values(model))
    outputs = onnx_file.shapes(model.graph.output)
    opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    names = _symbols(inputs)
    if unknown := sorted(set(sizes or {}) - set(names)):
        raise KeyError(
            f"check: no dimension {unknown[0]!r}; there are {', '.join(names) or 'none'}"
        )
    findings = [_valid(path), _inferred(model), *_named(dynamic, names, inputs)]
    if all(finding.ok for finding in findings[:2]):
        findings += _run(model, names, dict(sizes or {}))
    return Check(tuple(findings), inputs, outputs, opset)


def run_once(model: Any, feed: Mapping[str, np.ndarray] | None = None) -> None:
    """Run a model in memory on the CPU, as a check that it can be opened and computes at all.

    Args:
        model: The ``onnx.ModelProto``.
        feed: Its inputs; without them, some are made up at the sizes of the example.

    Raises:
        Exception: What ONNX Runtime raises, a class of its own for each status.
    """
    load(model).runtime.run(None, dict(feed or _made_up(model, _base_sizes(model))))


def _symbols(inputs: Mapping[str, Shape]) -> list[str]:
    return list(
        dict.fromkeys(dim for shape in inputs.values() for dim in shape if isinstance(dim, str))
    )


def _valid(path: str | Path) -> Finding:
    checker = optional("onnx.checker", "labs.export")
    try:
        checker.check_model(str(path))
    except checker.ValidationError as error:
        return Finding("format", False, first_line(error))
    return Finding("format", True, "onnx.checker accepts it")


def _inferred(model: Any) -> Finding:
    inference = optional("onnx.shape_inference", "labs.export")
    try:
        known = inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except inference.InferenceError as error:
        return Finding("shapes", False, first_line(error))
    known_names = {value.name for value in [*known.value_info, *known.output]}
    made = [name for node in known.node for name in node.output if name]
    share = sum(name in known_names for name in made)
    return Finding("shapes", True, f"inferred for {share} of {len(made)} values")


def _named(wanted: Sequence[str], names: list[str], inputs: Mapping[str, Shape]) -> list[Finding]:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in inputs.items())
    return [
        Finding(f"{name} is dynamic", name in names, f"the inputs are {shapes}") for name in wanted
    ]


def _run(model: Any, names: list[str], sizes: dict[str, Sequence[int]]) -> list[Finding]:
    """Run at the base sizes, and then with each dimension changed by itself."""
    base = _base_sizes(model)
    try:
        runner = load(model)
        before = _shapes(runner, model, base)
    except Exception as error:
        return [Finding("runs", False, f"at {base or 'its fixed sizes'}: {first_line(error)}")]
    findings = [Finding("runs", True, _text(before))]
    batches = {shape[0] for shape in runner.inputs.values() if shape and isinstance(shape[0], str)}
    for name in names:
        tried = sizes.get(name) or _other_sizes(name in batches, base[name])
        findings += [_try(runner, model, {**base, name: n}, name, batches) for n in tried]
    return findings


def _try(runner: Session, model: Any, at: dict[str, int], name: str, batches: set[str]) -> Finding:
    what = f"{name}={at[name]}"
    try:
        got = _shapes(runner, model, at)
    except Exception as error:  # ONNX Runtime raises a class of its own for each status
        return Finding(what, False, f"does not run: {first_line(error)}")
    for output, declared in onnx_file.shapes(model.graph.output).items():
        expected = tuple(at.get(d, d) if isinstance(d, str) else d for d in declared)
        wrong = [d for d, g in zip(expected, got[output], strict=True) if _differs(d, g)]
        if wrong or len(expected) != len(got[output]):
            seen = f"{output!r} is declared {list(declared)} and came as {list(got[output])}"
            return Finding(what, False, seen)
        if name in batches and got[output][:1] != (at[name],):
            seen = f"the batch is folded: {output!r} came as {list(got[output])}"
            return Finding(what, False, seen)
    return Finding(what, True, _text(got))


def _differs(expected: int | str, got: int) -> bool:
    # A dimension that is still a name here is an expression, or depends on the data.
    return isinstance(expected, int) and expected != got


def _shapes(runner: Session, model: Any, at: dict[str, int]) -> dict[str, tuple[int, ...]]:
    made = runner.runtime.run(None, _made_up(model, at))
    return {name: tuple(v.shape) for name, v in zip(runner.outputs, made, strict=True)}


def _made_up(model: Any, at: dict[str, int]) -> dict[str, np.ndarray]:
    """Make inputs of these sizes: values in [0, 1), or zeros where the type is not a float."""
    values = onnx_file.input_values(model)
    shapes, random = onnx_file.shapes(values), torch.Generator().manual_seed(0)
    feed = {}
    for value in values:
        shape = [at[dim] if isinstance(dim, str) else dim for dim in shapes[value.name]]
        kind = optional("onnx.helper", "labs.export").tensor_dtype_to_np_dtype(
            value.type.tensor_type.elem_type
        )
        drawn = torch.rand(shape, generator=random).numpy()
        feed[value.name] = (drawn if np.issubdtype(kind, np.floating) else drawn * 0).astype(kind)
    return feed


def _base_sizes(model: Any) -> dict[str, int]:
    """Take the sizes of the example; without one, 2 for a batch and 64 otherwise."""
    declared = onnx_file.shapes(onnx_file.input_values(model))
    noted = onnx_file.note(model)
    sizes: dict[str, int] = {}
    for name, shape in declared.items():
        example = noted.example.get(name) if noted else None
        for index, dim in enumerate(shape):
            if isinstance(dim, str):
                guess = 2 if index == 0 else 64
                sizes.setdefault(dim, example[index] if example else guess)
    return sizes


def _other_sizes(is_batch: bool, base: int) -> list[int]:
    return [size for size in (1, 3, 5) if size != base] if is_batch else [base + 32]


def _text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
