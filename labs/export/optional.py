"""Import what only exporting needs, or say how to get it."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str) -> Any:
    """Import a module of an optional package when it is first needed.

    Args:
        module: Its dotted name, such as ``onnxruntime.quantization``.

    Raises:
        ImportError: When its package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        package = module.partition(".")[0]
        raise ImportError(
            f"labs.export needs {package}, and Python cannot find {absent.name}; install the "
            'extra: pip install "cv-debugged[lessons]"',
            name=absent.name,
        ) from absent
