"""Import what only some readers need, or say how to get it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

OPTIONAL: Mapping[str, tuple[str, str]] = {
    "IPython": ("ipython", "notebook"),
    "faster_coco_eval": ("faster-coco-eval", "metrics"),
    "google": ("protobuf", "export"),  # onnx brings it
    "graphviz": ("graphviz", "export"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "onnxscript": ("onnxscript", "export"),
    "pycocotools": ("pycocotools", "masks"),
}
"""For each module that is not always there: its package, and the smallest extra that has it."""


def optional(module: str, user: str) -> Any:
    """Import a module of an optional package when it is first needed.

    Args:
        module: Its dotted name, such as ``onnxruntime.quantization``; one of :data:`OPTIONAL`.
        user: What needs it, such as ``labs.export``.

    Raises:
        ImportError: When its package is not installed; the message says how to install it. The
            extra that it names leaves your PyTorch as it is.
    """
    package, extra = OPTIONAL[module.partition(".")[0]]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        raise ImportError(
            f"{user} needs {package}, and Python cannot find {absent.name}; install the "
            f'extra: pip install "cv-debugged[{extra}]"',
            name=absent.name,
        ) from absent
