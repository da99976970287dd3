"""What a verb returns cannot be changed behind the back of who holds it: dataclasses are frozen."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGING = {
    "labs/recipes/best.py: Best": "is offered better weights, epoch by epoch",
    "labs/diagram/routes.py: _Streets": "notes each arrow that is laid",
    "labs/ddp_train/state.py: Run": "a training run, which every step changes",
    "labs/hunts/foundations/delivery.py: _Folder": "counts how often it was read",
}


def test_every_dataclass_is_frozen_or_changes_by_its_nature():
    changing = set()
    for path in sorted((ROOT / "labs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(map(can_change, node.decorator_list)):
                changing.add(f"{path.relative_to(ROOT).as_posix()}: {node.name}")
    assert changing == CHANGING.keys()


def can_change(decorator):
    """Tell whether a decorator makes a dataclass that is not frozen."""
    words = {word.arg: word.value for word in getattr(decorator, "keywords", ())}
    frozen = getattr(words.get("frozen"), "value", False)
    return getattr(getattr(decorator, "func", decorator), "id", "") == "dataclass" and not frozen
