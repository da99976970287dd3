"""A public name is used by a lesson, by another module, or told to a stranger; or it is private.

Whoever reads a module learns from its public names what it is for. So each of them is imported by
another module, a tool or a lesson, stands in the code of a page (README, CONTRIBUTING, the pages of
the API), is the target of a link in a docstring, is a type in the signature of a public name, or is
an error.
"""

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_ROOMS = 34
DOCSTRING_LINK = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")
FENCED = re.compile(r"^```(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@cache
def parsed(text):
    """Return the syntax tree of a source, and all its nodes."""
    tree = ast.parse(text)
    return tree, tuple(ast.walk(tree))


def code_of(text):
    """Return the code in a text of Markdown, without what is for Sphinx."""
    blocks = [code for kind, code in FENCED.findall(text) if not kind.startswith("{")]
    return blocks + re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def words(text):
    return set(re.findall(r"\w+", text))


def module_name(path, root):
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def is_private(module):
    return any(part.startswith("_") for part in module.split("."))


def defined(tree):
    """Yield the names that a module makes, each with the statement that makes it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        for target in targets(node):
            if isinstance(target, ast.Name):
                yield target.id, node


def targets(node):
    if isinstance(node, ast.AnnAssign):
        return [node.target]
    found = node.targets if isinstance(node, ast.Assign) else []
    return [part for target in found for part in getattr(target, "elts", [target])]


def taken(path):
    """Return the names that a file takes from other modules, and what it asks of modules.

    What the ``__init__`` of a package only passes on is not used there.
    """
    passes_on = path.name == "__init__.py"
    _, nodes = parsed(path.read_text())
    aliases = [
        (alias, getattr(node, "module", None) or alias.name)
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    ours = [alias for alias, module in aliases if module.split(".")[0] == "labs"]
    known = {alias.asname or alias.name.split(".")[0] for alias in ours}
    found = set() if passes_on else {alias.name for alias in ours}
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_module(node.value, known):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and passes_on and isinstance(node.ctx, ast.Load):
            found.add(node.id)
    return found


def is_module(node, known):
    """Tell whether an expression may be a module of ours, or one from ``import_module``."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") == "import_module"
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in known


def types_of(name, node):
    """Return the names in the annotations of a public name, without its own."""
    if isinstance(node, ast.Assign):  # of a type alias
        is_alias = isinstance(node.value, ast.Subscript | ast.BinOp) and not name.isupper()
        return type_names(node.value) - {name} if is_alias else set()
    found = set()
    for part in public_parts(node):
        if isinstance(part, ast.FunctionDef):
            found |= type_names(part.returns)
        elif isinstance(part, ast.arg | ast.AnnAssign):
            found |= type_names(part.annotation)
    return found - {name}


def public_parts(node):
    """Yield a node and what is inside, without private methods."""
    yield node
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "") if isinstance(child, ast.FunctionDef) else ""
        if not name.startswith("_") or name.startswith("__"):
            yield from public_parts(child)


def type_names(annotation):
    if annotation is None:
        return set()
    return words(ast.unparse(annotation))


def unused(root):
    """Return the public names of ``labs`` below a folder that nobody uses, sorted."""
    modules = {module_name(path, root): path for path in sorted((root / "labs").rglob("*.py"))}
    uses = {name: taken(path) for name, path in modules.items()}
    told = told_in(root) | {name for path in modules.values() for name in linked(path)}
    names = [
        (module, name, node)
        for module, path in modules.items()
        if not is_private(module)
        for name, node in defined(parsed(path.read_text())[0])
        if not name.startswith("_") and not is_type_variable(node)
    ]
    typed = {kind for _, name, node in names for kind in types_of(name, node)}
    return sorted(
        f"{module}.{name}"
        for module, name, node in names
        if name not in told
        and not any(name in found for other, found in uses.items() if other != module)
        and not (name in typed and is_type(node))
        and not (isinstance(node, ast.ClassDef) and name.endswith("Error"))
    )


def is_type(node):
    """Tell whether a statement makes a type: a class or an alias such as ``Loss = Callable[…]``."""
    return isinstance(node, ast.ClassDef) or (
        isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp)
    )


def is_type_variable(node):
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and getattr(value.func, "id", "") == "TypeVar"


def linked(path):
    """Return the names that docstrings link to, also those below a constant or a field."""
    _, nodes = parsed(path.read_text())
    texts = [getattr(node.value, "value", None) for node in nodes if isinstance(node, ast.Expr)]
    strings = [text for text in texts if isinstance(text, str)]
    return {name for text in strings for name in DOCSTRING_LINK.findall(text)}


def told_in(root):
    """Return the names that lessons and tools take, and those in the code of pages."""
    found = set()
    texts = []
    for path in [*(root / "lessons").rglob("*.py"), *(root / "tools").rglob("*.py")]:
        found |= taken(path)
        texts.append("\n".join(re.findall(r"^# (.*)", path.read_text(), re.MULTILINE)))
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "book" / "api").glob("*.md")]
    texts += [page.read_text() for page in pages if page.exists()]
    return found | {word for text in texts for code in code_of(text) for word in words(code)}


def borrowed(root):
    """Return the private names that a module of ``labs`` takes from another one, sorted."""
    found = set()
    for path in (root / "labs").rglob("*.py"):
        _, nodes = parsed(path.read_text())
        froms = [n for n in nodes if isinstance(n, ast.ImportFrom)]
        inner = [a for n in froms if (n.module or "").split(".")[0] == "labs" for a in n.names]
        modules = {a.asname or a.name for a in inner}
        names = [a.name for a in inner]
        names += [
            n.attr
            for n in nodes
            if getattr(getattr(n, "value", 0), "id", "") in modules and isinstance(n, ast.Attribute)
        ]
        hidden = {n for n in names if re.match("_(?!_)", n)}
        found |= {f"{module_name(path, root)}: {name}" for name in hidden}
    return sorted(found)


def rooms(root):
    """Return the rooms of the top floor of ``labs``, each with those that it imports anywhere."""
    found = {}
    for path in sorted((root / "labs").rglob("*.py")):
        room = path.relative_to(root / "labs").parts[0].removesuffix(".py")
        _, nodes = parsed(path.read_text())
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{a.name}" for a in node.names]
        inner = {name.split(".")[1] for name in names if name.startswith("labs.")}
        found[room] = found.get(room, set()) | inner - {room}
    return {room: sorted(inner & found.keys()) for room, inner in found.items()}


def circle(graph):
    """Return rooms that import each other in a circle, the first one again at the end, or []."""
    done = set()

    def walk(room, way):
        if room in way:
            return [*way[way.index(room) :], room]
        if room not in done:
            for inner in graph[room]:
                if found := walk(inner, [*way, room]):
                    return found
        done.add(room)
        return []

    return next((found for room in graph if (found := walk(room, []))), [])


def test_every_public_name_is_used_or_told():
    found = unused(ROOT)
    assert not found, (
        "expected each public name to be used by another module, a tool or a lesson, or told in "
        "book/api; used by nobody (write `_name`, or an example for a stranger):\n"
        + "\n".join(found)
    )


def test_examples_import_what_there_is():
    """The code of the API pages is for files of your own; what it takes from ``labs`` is here."""
    taken_here = [
        (page.name, node.module, alias.name)
        for page in sorted((ROOT / "book" / "api").glob("*.md"))
        for kind, code in FENCED.findall(page.read_text())
        if kind == "python"
        for node in parsed(code)[1]
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "labs"
        for alias in node.names
    ]
    assert ("ablation.md", "labs.ablation", "ablate") in taken_here
    assert [taking for taking in taken_here if not offers(*taking[1:])] == []
    assert not offers("labs.ablation", "resampled")
    assert not offers("labs.ablations", "resample")


def offers(module, name):
    """Tell whether a module makes or imports a name, by its text alone."""
    place = ROOT / module.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return file.is_file() and name in words(file.read_text())


def test_no_module_takes_a_private_name_from_another():
    assert borrowed(ROOT) == []


def test_the_top_floor_is_small_and_no_arrow_runs_back():
    graph = rooms(ROOT)
    assert {"hooks", "models", "repro"} <= graph.keys()
    assert "repro" in graph["hunts"]
    assert len(graph) <= MOST_ROOMS, sorted(graph)
    assert circle(graph) == []


def make(folder, files):
    """Write modules, by their path without ``.py``, and return the folder."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "def f(): ...",
        "class f: ...",
        "f = 3",
        "f: int = 3",
        "f, _g = 3, 4",
        "f = dict[str, int]",
        "def f(): ...\ndef _g() -> f: ...",
        "class f:\n    def again(self) -> 'f': ...",
        "class f: ...\nclass _G:\n    part: f",
        "def f(): ...\n_g = f()",
        "f = dict[str, 'f']",
        "class f: ...\nclass LostError:\n    def _h(self) -> f: ...",
    ],
)
def test_a_name_that_only_its_own_module_uses_is_found(tmp_path, text):
    assert unused(make(tmp_path, {"labs/a": text})) == ["labs.a.f"]


def test_what_a_package_itself_makes_and_uses_is_found(tmp_path):
    files = {"labs/p/__init__": "def f(): ...\n_g = f()"}
    assert unused(make(tmp_path, files)) == ["labs.p.f"]


@pytest.mark.parametrize(
    "text",
    [
        "def _f(): ...",
        "class LostError(Exception): ...",
        "def g():\n    '''Do as :func:`f` does, see :func:`labs.a.g`.'''\ndef f(): ...",
        "class f: ...\ndef g() -> list[f]:\n    '''See :func:`g`.'''",
        "f = dict[str, int]\ndef g(x: f):\n    '''See :func:`g`.'''",
        "class f: ...\nclass g:\n    '''See :func:`g`.'''\n    def __init__(self):\n"
        "        self.parts: list[f] = []",
    ],
)
def test_what_is_private_raised_linked_or_a_type_of_a_public_name_is_well(tmp_path, text):
    assert unused(make(tmp_path, {"labs/a": text})) == []


@pytest.mark.parametrize(
    ("place", "text", "is_use"),
    [
        ("labs/b", "from labs.a import f", True),
        ("labs/b", "from labs import a\na.f()", True),
        ("labs/b", "import labs.a\nlabs.a.f()", True),
        ("labs/b", "from importlib import import_module\nimport_module('labs.a').f", True),
        ("labs/__main__", "from labs.a import f", True),
        ("labs/p/__init__", "from labs.a import f", False),
        ("labs/p/__init__", "from labs.a import f\n_found = f()", True),
        ("labs/b", "def _g(f): return f", False),
        ("labs/b", "from PIL import f", False),
        ("labs/b", "from PIL import Image\nImage.f", False),
        ("labs/b", "_g = object()\n_g.f", False),
        ("tests/test_a", "from labs.a import f", False),
        ("tools/b", "from labs.a import f", True),
        ("lessons/01/b", "# %%\nfrom labs.a import f", True),
        ("lessons/01/b", "# %% [markdown]\n# Call `a.f` yourself.", True),
        ("lessons/01/b", "# %% [markdown]\n# We call f yourself.", False),
    ],
)
def test_who_uses_a_name(tmp_path, place, text, is_use):
    make(tmp_path, {"labs/a": "def f(): ...", place: text})
    assert unused(tmp_path) == ([] if is_use else ["labs.a.f"])


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("Call `labs.a.f(3)`.", True),
        ("```python\nf(3)\n```", True),
        ("We call f.", False),
        ("```{eval-rst}\n.. autoapimodule:: f\n```", False),
    ],
)
def test_a_page_tells_of_a_name_in_code(tmp_path, text, is_told):
    make(tmp_path, {"labs/a": "def f(): ..."})
    (tmp_path / "book" / "api").mkdir(parents=True)
    (tmp_path / "book" / "api" / "a.md").write_text(text)
    assert unused(tmp_path) == ([] if is_told else ["labs.a.f"])


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path):
    files = {"labs/a": "from labs import b", "labs/b/x": "def _f():\n    import labs.c"}
    assert circle(rooms(make(tmp_path, {**files, "labs/c": "_x = 1"}))) == []
    assert circle(rooms(make(tmp_path, {"labs/c": "from labs.a import f"}))) == ["a", "b", "c", "a"]


def test_a_private_name_that_another_module_takes_is_found(tmp_path):
    files = {"labs/a": "from labs.b import _f, g", "labs/p/b": "from labs import b\nb._f()"}
    assert borrowed(make(tmp_path, files)) == ["labs.a: _f", "labs.p.b: _f"]
    other = "import sys\nfrom torch import _f\nsys._getframe()\nself = 3\nself._f"
    assert borrowed(make(tmp_path, {"labs/a": other, "labs/p/b": ""})) == []
