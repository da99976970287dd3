"""Plant one small fault in a program: each operator changes one place of its syntax tree.

The classic operators of mutation testing (DeMillo, Lipton and Sayward, 1978), and those that fit
tensors: axis, dtype, the order of arguments, a copy that is not made.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Edit = tuple[ast.expr | ast.stmt, str]  # what is replaced, and the text that takes its place
Operator = Callable[[ast.AST], Iterator[Edit]]

COMPARED = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
SIGNS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*"}
AXES = {
    *("all", "amax", "amin", "any", "argmax", "argmin", "argsort", "cat", "concatenate", "cumsum"),
    *("flatten", "flip", "log_softmax", "logsumexp", "max", "mean", "min", "prod", "size"),
    *("softmax", "sort", "split", "stack", "std", "sum", "topk", "unbind", "unsqueeze", "var"),
}
DTYPES = {
    "float32": "float16",
    "float64": "float32",
    "int64": "int32",
    "int32": "int16",
    "uint8": "int8",
    "float": "half",
    "double": "float",
    "long": "int",
    "bool": "byte",
}
ANY_ORDER = {"isinstance", "max", "maximum", "min", "minimum"}  # the same, or a plain TypeError
COPIES = {"clone", "contiguous", "copy", "detach", "item"}


@dataclass(frozen=True)
class Fault:
    """Hold one fault: where it is, and the text before and after.

    Attributes:
        file: The path, relative to the root.
        line: From 1.
        operator: One of ``OPERATORS``.
        before: What stands there.
        after: What is put there.
        start: Where ``before`` begins in the file, in bytes.
    """

    file: str
    line: int
    operator: str
    before: str
    after: str
    start: int

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line} [{self.operator}] {before} -> {after}"

    def planted(self, source: str) -> str:
        """Return the program with the fault.

        Raises:
            ValueError: When the program is not the one that the fault was made for.
        """
        content, end = source.encode(), self.start + len(self.before.encode())
        if content[self.start : end].decode(errors="replace") != self.before:
            raise ValueError(f"expected {self.before!r} in {self.file}:{self.line}; it has changed")
        return (content[: self.start] + self.after.encode() + content[end:]).decode()


def faults(source: str, file: str) -> list[Fault]:
    """Return every fault that an operator makes of a program.

    Text is left alone (docstrings, messages, annotations), and so is what runs for a type checker.
    """
    content, starts = source.encode(), [0]
    for text in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    found = []
    for node in _code(ast.parse(source)):
        for name, operator in OPERATORS.items():
            for place, after in operator(node):
                start = starts[place.lineno - 1] + place.col_offset
                end = starts[(place.end_lineno or 0) - 1] + (place.end_col_offset or 0)
                before = content[start:end].decode()
                found.append(Fault(file, place.lineno, name, before, after, start))
    return found


def is_another(source: str, fault: Fault) -> bool:
    """Tell whether the fault makes another program, and one that compiles."""
    try:
        tree = ast.parse(fault.planted(source))
    except SyntaxError:
        return False
    return ast.dump(tree) != ast.dump(ast.parse(source))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Go through what runs: no text, no annotation, no import, no message of an error."""
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Raise)):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "msg") or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _with(node: ast.AST, part: str, value: object) -> str:
    """Return the text of a node one part of which is another."""
    fields = {name: getattr(node, name) for name in node._fields}
    return ast.unparse(type(node)(**{**fields, part: value}))


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def _comparison(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield node, f"{left} {COMPARED[type(node.ops[0])]} {right}"
    if isinstance(node, ast.BoolOp):
        yield node, _with(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"bool({ast.unparse(node.operand)})"


def _constant(node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield node, str(not node.value)
    elif isinstance(node.value, int):
        yield node, str(node.value + 1)
    elif isinstance(node.value, float):
        yield node, repr(node.value * 100 if abs(node.value) < 0.01 else node.value * 2 or 0.5)


def _argument(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Call):
        for k, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield node, _with(node, "keywords", node.keywords[:k] + node.keywords[k + 1 :])


def _axis(node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Call):
        return
    name = _name(node)
    named = [k.value for k in node.keywords if k.arg in ("dim", "axis")]
    placed = [place for place in node.args if name in AXES]
    for place in named + placed:
        try:
            axis = ast.literal_eval(place)
        except ValueError:
            continue
        if isinstance(axis, int):
            yield place, str({0: 1, -1: -2}.get(axis, axis - 1))


def _sign(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        left, right = (
            f"({ast.unparse(side)})" if isinstance(side, ast.BinOp) else ast.unparse(side)
            for side in (node.left, node.right)
        )
        yield node, f"({left} {SIGNS[type(node.op)]} {right})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, ast.unparse(node.operand)


def _order(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Call) and len(node.args) >= 2 and _name(node) not in ANY_ORDER:
        yield node, _with(node, "args", [node.args[1], node.args[0], *node.args[2:]])
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store) and len(node.elts) >= 2:
        swapped = [node.elts[1], node.elts[0], *node.elts[2:]]
        yield node, _with(node, "elts", swapped)
    if isinstance(node, ast.Slice) and node.lower is not None and node.upper is None:
        yield node, f":{ast.unparse(node.lower)}"


def _dtype(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Attribute) and node.attr in DTYPES:
        yield node, f"{ast.unparse(node.value)}.{DTYPES[node.attr]}"


def _guard(node: ast.AST) -> Iterator[Edit]:
    leaves = (ast.Raise, ast.Return, ast.Continue, ast.Break)
    if isinstance(node, ast.If) and isinstance(node.body[-1], leaves):
        yield node.test, "False"
    if isinstance(node, ast.Assert):
        yield node, "pass"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name in COPIES and not node.args and not node.keywords:
            yield node, ast.unparse(node.func.value)
        if name in ("clamp", "clamp_", "clip", "nan_to_num"):
            yield node, ast.unparse(node.func.value)


OPERATORS: dict[str, Operator] = {
    "comparison": _comparison,
    "constant": _constant,
    "argument": _argument,
    "axis": _axis,
    "sign": _sign,
    "order": _order,
    "dtype": _dtype,
    "guard": _guard,
}
