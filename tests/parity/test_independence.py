"""The side that the networks are held to knows nothing of them."""

import ast
from pathlib import Path

import pytest

PLAIN = ("plain", "modules", "tables", "darknet", "cfg", "boxes")


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_side_imports_torch_and_itself_alone(name):
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    own = {f"tests.parity.{other}" for other in PLAIN}
    assert found <= own | {"torch", "torch.nn.functional", "math", "struct", "dataclasses"}
