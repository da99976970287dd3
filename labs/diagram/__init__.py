"""Draw networks from real runs: shapes that were captured, arrows that were proven."""

from labs.diagram.drawing import Drawing, draw
from labs.diagram.tracing import trace
from labs.diagram.wiring import Part, Wiring

__all__ = ["Drawing", "Part", "Wiring", "draw", "trace"]
