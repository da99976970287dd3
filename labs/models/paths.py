"""Count the layers that a gradient passes on its way from the end of a block to each layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from torch import nn
from torch.fx import Graph, Node, symbolic_trace


@dataclass(frozen=True)
class GradientPaths:
    """Hold how many convolutions lie between each convolution and the output.

    Attributes:
        layers: Names of the convolutions, in the order of the forward pass.
        shortest: On the shortest way back; 0 for a convolution whose output is used as it is.
        longest: On the longest way back.
    """

    layers: tuple[str, ...]
    shortest: tuple[int, ...]
    longest: tuple[int, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per layer: ``layer``, ``shortest``, ``longest``."""
        columns = {"layer": self.layers, "shortest": self.shortest, "longest": self.longest}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return (
            f"GradientPaths({len(self.layers)} convolutions, the longest shortest path "
            f"{max(self.shortest)}, the longest {max(self.longest)})"
        )


def gradient_paths(block: nn.Module) -> GradientPaths:
    """Count, for every convolution of a block, the convolutions that its gradient comes through.

    ELAN is designed by the longest of the shortest paths (Wang et al. 2022, arXiv:2211.04800): it
    should stay small, however many layers a block has.

    Args:
        block: A module that ``torch.fx`` can trace: without branches that depend on values.

    Raises:
        ValueError: When the block has no convolution.
    """
    traced = symbolic_trace(block)
    modules = dict(traced.named_modules())

    def is_layer(node: Node) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d)

    shortest, longest = (_steps(traced.graph, is_layer, choose) for choose in (min, max))
    layers = [node for node in traced.graph.nodes if is_layer(node) and node in shortest]
    if not layers:
        raise ValueError(f"gradient_paths: expected a block with a Conv2d, got {block}")
    return GradientPaths(
        tuple(str(node.target) for node in layers),
        tuple(shortest[node] for node in layers),
        tuple(longest[node] for node in layers),
    )


def _steps(
    graph: Graph, is_layer: Callable[[Node], bool], choose: Callable[[list[int]], int]
) -> dict[Node, int]:
    """Walk back from the output: how many layers after each node, by the best or worst way."""
    steps: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        ways = [steps[user] + is_layer(user) for user in node.users if user in steps]
        if node.op == "output":
            steps[node] = 0
        elif ways and node.target is not getattr:  # no gradient comes through x.shape
            steps[node] = choose(ways)
    return steps
