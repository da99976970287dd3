"""Import what only some readers need, or say how to get it."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, user: str, extra: str = "lessons") -> Any:
    """Import a module of an optional package when it is first needed.

    Args:
        module: Its dotted name, such as ``onnxruntime.quantization``.
        user: What needs it, such as ``labs.export``.
        extra: Which extra of this package brings it.

    Raises:
        ImportError: When its package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        package = module.partition(".")[0].replace("_", "-")
        raise ImportError(
            f"{user} needs {package}, and Python cannot find {absent.name}; install the "
            f'extra: pip install "cv-debugged[{extra}]"',
            name=absent.name,
        ) from absent
