"""Mend what static analysis leaves out of the API reference.

``autoapi`` reads ``labs`` without importing it, so that rendering needs no PyTorch. By itself it

- lists names that a module only imports: they are left out here, unless a package takes them from
  its own modules, as ``labs.hooks`` does to offer them; links to them lead to that package;
- shows a type alias (``Loss = Callable[...]``) without its value: it is read from the source, and
  a signature that names the alias links to it;
- shows every constant: those without a docstring are left out;
- shows each field of a dataclass twice, with its type and under ``Attributes:`` with its
  meaning: the two are put together;
- knows nothing of other projects: their types lead to the pages of ``elsewhere.toml``, so that no
  inventory is fetched while the book is built, and so do their names in the words of these pages;
- takes words before a colon for a type: they are kept as words;
- orders names by file or alphabet: they stand in the order that the page states in ``:members:``;
- does not say where the code is: each name leads to its line in the repository.
"""

from __future__ import annotations

import ast
import builtins
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from labs.stamp import ROOT

# Packages whose types are documented elsewhere; a name of any other package that is not found
# still fails the build.
STANDARD = {"argparse", "collections", "concurrent", "contextlib", "pathlib", "types", "typing"}
ELSEWHERE = STANDARD | {
    *("graphviz", "matplotlib", "numpy", "onnx", "onnxruntime", "pandas", "PIL"),
    *("torch", "torchvision"),
}
ADDRESSES = Path(__file__).with_name("elsewhere.toml")
PYTHON = "https://docs.python.org/3/library"
ORDER = re.compile(r"^\.\. autoapimodule:: (\S+)\n   :members:\n((?:      .+\n)+)", re.MULTILINE)
HIDDEN = "\ue000"  # a character of nobody's, in place of a colon while napoleon reads
FIELD = re.compile(r"^:ivar (\w+): (.*(?:\n +.*)*)\n?", re.MULTILINE)


def aliases(source: str) -> dict[str, str]:
    """Return the type aliases of a module, such as ``Loss = Callable[..., Tensor]``, as text."""
    return {
        node.targets[0].id: ast.unparse(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and _is_type(node.value)
    }


def _is_type(value: ast.expr) -> bool:
    """Tell whether an expression is a type with parameters or a union, not a look-up or flags."""
    is_union = isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)
    base = value.value if isinstance(value, ast.Subscript) else value
    names = (ast.unparse(node).rpartition(".")[2] for node in ast.walk(base) if _is_name(node))
    return (is_union or base is not value) and not any(name.isupper() for name in names)


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute)


def split_fields(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a class docstring into what is left without its fields, and the meaning of each.

    Args:
        docstring: As napoleon left it, where a field is ``:ivar name: meaning``.
    """
    meanings = {name: " ".join(text.split()) for name, text in FIELD.findall(docstring)}
    return FIELD.sub("", docstring), meanings


def stated_orders(page: str) -> dict[str, list[str]]:
    """Return the names that a page lists for each of its modules, in its order."""
    return {
        module: [name.strip() for name in listed.split(",")]
        for module, listed in ORDER.findall(page)
    }


@cache
def read_addresses(file: Path = ADDRESSES) -> dict[str, str]:
    """Return where names of other projects are documented, by their full name."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        name: f"{table['base']}/{page.replace('*', name)}"
        for table in tables.values()
        for page, names in table["pages"].items()
        for name in names
    }


def address_of(target: str, addresses: Mapping[str, str]) -> str | None:
    """Return where a name of another project is documented, or None where nobody wrote it down.

    The manual of Python has one page a module, so its addresses follow from the names.
    """
    package, _, _ = target.partition(".")
    if package in STANDARD and "." in target:
        return f"{PYTHON}/{target.rpartition('.')[0]}.html#{target}"
    return addresses.get(target)


def source_of(name: str, members: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the file and the line that define a name, or None where a link would say nothing new.

    A name that a package offers leads to the module that defines it; the fields of a class stand
    below its head, which has a link of its own.
    """
    if name not in members or members[name].type == "attribute":
        return None
    offered, inside = name, ""
    while offered in members and not members[offered].obj.get("original_path"):
        offered, _, last = offered.rpartition(".")
        inside = f".{last}{inside}"
    if offered in members:
        name = members[offered].obj["original_path"] + inside
    module = name
    while members[module].type not in ("module", "package"):
        module = module.rpartition(".")[0]
    line = members[name].obj.get("from_line_no")
    return (members[module].obj["file_path"], line) if line else None


def _find_source(app: Sphinx) -> Callable[[str, Mapping[str, str]], str | None]:
    """Return the function that linkcode asks for the address of a name."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    base = f"{settings['url']}/blob/{settings['branch']}"

    def address(domain: str, info: Mapping[str, str]) -> str | None:
        if domain != "py":
            return None
        found = source_of(f"{info['module']}.{info['fullname']}", _members(app.env))
        if found is None:
            return None
        file, line = found
        return f"{base}/{Path(file).relative_to(ROOT).as_posix()}#L{line}"

    return address


def _complete(app: Sphinx) -> None:
    orders: dict[str, list[str]] = {}
    for page in sorted((ROOT / "book/api").glob("*.md")):
        orders |= stated_orders(page.read_text(encoding="utf-8"))
    for module in _members(app.env).values():
        if module.type not in ("module", "package"):
            continue
        values = aliases(Path(module.obj["file_path"]).read_text(encoding="utf-8"))
        for child in module.children:
            if child.type == "data":
                child.alias = child.short_name in values
                child.value = values.get(child.short_name, child.value)
            if child.type in ("class", "exception"):
                _move_fields(child)
        if order := orders.get(module.id):
            places = {name: place for place, name in enumerate(order)}
            module.children.sort(key=lambda child: places.get(child.short_name, len(places)))


def _members(env: BuildEnvironment) -> dict[str, Any]:
    """Return everything that autoapi found in the package, by its full name."""
    members: dict[str, Any] = vars(env)["autoapi_all_objects"]
    return members


def _move_fields(owner: Any) -> None:
    owner.docstring, meanings = split_fields(owner.docstring)
    for child in owner.children:
        if child.short_name in meanings and not child.docstring:
            child.docstring = meanings[child.short_name]


def _skip_member(
    app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what another package defines, and constants that nobody wrote a word about."""
    is_foreign = getattr(member, "imported", False) and _offered_as(member) is None
    is_mute = getattr(member, "type", "") == "data" and not (member.docstring or member.alias)
    return True if is_foreign or is_mute else None


def _offered_as(member: Any) -> tuple[str, str] | None:
    """Return where a member is defined and where a package offers it, when it is offered."""
    if not getattr(member, "imported", False):
        return None
    home, package = member.obj.get("original_path", ""), member.id.rpartition(".")[0]
    return (home, member.id) if home.startswith(f"{package}.") else None


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Link a name to where it is documented, or shorten it when no page of this book does that."""
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    if hasattr(builtins, target):  # or ``float`` would be found as a method of some module
        return content
    if target.split(".")[0] in ELSEWHERE:
        if address := address_of(target, read_addresses()):
            return nodes.reference("", "", content, refuri=address, reftitle=target)
        return nodes.abbreviation("", content.astext(), explanation=target)
    member = _find(_members(env), target, node.get("py:module") or "labs")
    if member is None:
        return None
    offers = filter(None, map(_offered_as, _members(env).values()))
    page = cast(PythonDomain, env.get_domain("py")).objects.get(
        dict(offers).get(member.id, member.id)
    )
    if page is None:  # a name of the inside of a package; its value or place says what it is
        explanation = getattr(member, "value", None) or member.id
        return nodes.abbreviation("", content.astext(), explanation=explanation)
    return make_refnode(app.builder, node["refdoc"], page.docname, page.node_id, content, target)


def _find(members: dict[str, Any], target: str, module: str) -> Any:
    """Find what a name written inside a module means: by its full name, or inside that package."""
    inside = (name for name in members if name.startswith(module) and name.endswith(f".{target}"))
    return members.get(target) or next((members[name] for name in inside), None)


def _hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading the words before a colon as a type; here annotations hold types.

    "Returns: The verdict: five probes" has no type called *The verdict*.
    """
    first = [0] if what in ("property", "attribute", "data") else []
    after = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() in ("Returns:", "Yields:")]
    for i in (*first, *after):
        lines[i] = re.sub(r":(?=\s|$)", HIDDEN, lines[i])


def _show_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = [line.replace(HIDDEN, ":") for line in lines]


def link_words(document: nodes.document, addresses: Mapping[str, str]) -> None:
    """Link names of other projects that stand as code in the words of a page."""
    for literal in [*document.findall(nodes.literal)]:
        address = addresses.get(literal.astext().removesuffix("()"))
        if address and not isinstance(literal.parent, nodes.reference | pending_xref):
            literal.replace_self(nodes.reference("", "", literal.deepcopy(), refuri=address))


def _on_doctree_read(app: Sphinx, document: nodes.document) -> None:
    if app.env.docname.startswith("book/api/"):
        link_words(document, read_addresses())


def _on_config(app: Sphinx, config: Config) -> None:
    config.linkcode_resolve = _find_source(app)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the events with Sphinx."""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _on_config)
    app.connect("doctree-read", _on_doctree_read)
    app.connect("builder-inited", _complete, priority=900)  # after autoapi has read the package
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("missing-reference", _resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
