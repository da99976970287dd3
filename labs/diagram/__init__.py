"""Draw networks from real runs: shapes that were captured, arrows that were proven.

On an image, in the same style: the cells of a map, anchors to scale, a receptive field.
"""

from labs.diagram.anchors import draw_anchors
from labs.diagram.cells import draw_cells
from labs.diagram.drawing import Drawing, draw
from labs.diagram.field import Field, draw_field, receptive_field
from labs.diagram.tracing import trace
from labs.diagram.wiring import Part, Wiring

__all__ = [
    "Drawing",
    "Field",
    "Part",
    "Wiring",
    "draw",
    "draw_anchors",
    "draw_cells",
    "draw_field",
    "receptive_field",
    "trace",
]
