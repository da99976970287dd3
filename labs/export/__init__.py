"""Take a model out of PyTorch: export it, prove it equal, run it fast, and make it small."""

from labs.export.benchmark import Benchmark, benchmark, contenders
from labs.export.check import Check, check
from labs.export.conversion import ExportError, to_onnx
from labs.export.drawing import draw
from labs.export.layers import LayerErrors, compare_layers
from labs.export.parity import Parity, ParityError, parity
from labs.export.quantization import QuantizationError, Scores, compare_scores, quantize
from labs.export.session import Session, session

__all__ = [
    "Benchmark",
    "Check",
    "ExportError",
    "LayerErrors",
    "Parity",
    "ParityError",
    "QuantizationError",
    "Scores",
    "Session",
    "benchmark",
    "check",
    "compare_layers",
    "compare_scores",
    "contenders",
    "draw",
    "parity",
    "quantize",
    "session",
    "to_onnx",
]
