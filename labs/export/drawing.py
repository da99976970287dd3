"""Draw the graph of an ONNX file, layer by layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labs.export import onnx_file
from labs.export.layers import scopes
from labs.extras import optional

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

_FILL = "#9ecae1"
_SIZES = "_empty_nn_module_stack_from_metadata_hook"  # PyTorch's layer for arithmetic on sizes


def draw(path: str | Path, depth: int = 1, layer: str = "") -> graphviz.Digraph:
    """Draw an ONNX graph with one box per layer, so that a large network fits on a page.

    A box says which operators the layer became; an arrow says how many values go from one box to
    another when they are several. Nodes that no deeper layer owns get a box for each operator.
    Where Graphviz's ``dot`` is missing, ``.source`` still is the drawing as text.

    To read every node, attribute and weight instead, open the file in Netron, which runs in the
    browser without sending the file anywhere: ``pip install netron``, then
    ``netron model.onnx``.

    Args:
        path: The file.
        depth: How many levels of layers to open, at least 1: 1 shows ``layer1``, 2 ``layer1.0``.
        layer: Draw only the inside of this layer; depth counts from it.

    Returns:
        A ``graphviz.Digraph``, which a notebook shows as a picture.

    Raises:
        ImportError: When onnx or the Python package graphviz is not installed.
        KeyError: When no node of the file is in ``layer``.
        ValueError: When depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"draw: expected depth >= 1, got {depth}")
    proto = onnx_file.read(path)
    picture = optional("graphviz", "labs.export").Digraph(
        node_attr={"shape": "box", "style": "filled,rounded", "fillcolor": _FILL, "height": "0.2"}
    )
    boxes = _boxes(proto, depth, layer)
    if not boxes:
        raise KeyError(f"draw: no node of layer {layer!r} in {path}")
    for box in dict.fromkeys(boxes.values()):
        inside = Counter(proto.graph.node[i].op_type for i, b in boxes.items() if b == box)
        picture.node(box, _label(box, inside))
    for (source, target), values in _arrows(proto, boxes, layer == "").items():
        picture.edge(source, target, label=str(values) if values > 1 else None)
    if not layer:
        for name, shape in {
            **onnx_file.shapes(onnx_file.input_values(proto)),
            **onnx_file.shapes(proto.graph.output),
        }.items():
            picture.node(
                f"value {name}", f"{name} {list(shape)}".replace("'", ""), fillcolor="none"
            )
    return picture


def _boxes(proto: Any, depth: int, layer: str) -> dict[int, str]:
    """Say for each node in which box it is: that of a layer, or one of its own."""
    boxes = {}
    for index, node in enumerate(proto.graph.node):
        around = scopes(node)
        if layer and layer not in around:
            continue
        inner = [
            name for name in around[around.index(layer) + 1 if layer in around else 0 :] if name
        ]
        own = f"node {index}"
        boxes[index] = f"layer {inner[:depth][-1]}" if inner else own
    return boxes


def _label(box: str, operators: Counter[str]) -> str:
    counted = [op if n == 1 else f"{n} {op}" for op, n in operators.most_common()]
    said = ", ".join(counted[:4]) + (", ..." if len(counted) > 4 else "")
    layer = box.removeprefix("layer ").replace(_SIZES, "sizes")
    return f"{layer}\n{said}" if box.startswith("layer ") else said


def _arrows(proto: Any, boxes: dict[int, str], ends: bool) -> Counter[tuple[str, str]]:
    """Count the values that go from one box to another; ``ends`` adds inputs and outputs."""
    maker = {value.name: f"value {value.name}" for value in onnx_file.input_values(proto)}
    maker = maker if ends else {}
    flows: dict[tuple[str, str, str], None] = {}  # a set that keeps its order
    for index, box in boxes.items():
        for value in proto.graph.node[index].input:
            if maker.get(value, box) != box:
                flows[maker[value], box, value] = None
        maker |= dict.fromkeys(proto.graph.node[index].output, box)
    for value in proto.graph.output if ends else ():
        if value.name in maker:
            flows[maker[value.name], f"value {value.name}", value.name] = None
    return Counter((source, target) for source, target, _ in flows)
