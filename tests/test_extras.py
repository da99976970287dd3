"""Name the smallest extra for what is missing, and touch nobody's PyTorch."""

import ast
import importlib.metadata
import json
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from labs import extras, plot
from labs.extras import OPTIONAL, optional
from labs.machine import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: {Requirement(line).name.lower().replace("_", "-") for line in lines}
    for name, lines in PROJECT["optional-dependencies"].items()
}
SINGLE = ("export", "masks", "metrics", "notebook")
# What is imported under another name than it is installed by.
INSTALLED_AS = {"PIL": "pillow", "sklearn": "scikit-learn"}


@pytest.fixture
def listed(monkeypatch):
    """List some modules as optional, so that they may be asked for."""
    known = {name: (name.replace("_", "-"), "some") for name in ("json", "os", "some_package")}
    monkeypatch.setattr(extras, "OPTIONAL", {**known, "broken_inside": ("broken-inside", "some")})


def test_a_module_that_is_there(listed):
    assert optional("json", "labs.test") is json
    assert optional("os.path", "labs.test").sep


def test_a_package_that_is_not_there(listed, monkeypatch):
    monkeypatch.setitem(sys.modules, "some_package", None)
    with pytest.raises(ImportError) as raised:
        optional("some_package", "labs.test")
    assert str(raised.value) == (
        "labs.test needs some-package, and Python cannot find some_package; install the extra: "
        'pip install "cv-debugged[some]"'
    )
    assert raised.value.name == "some_package"


def test_an_error_inside_the_package_is_not_hidden(listed, tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="built for another Python"):
        optional("broken_inside", "labs.test")


def test_a_figure_without_ipython_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    figure, ax = plot.new()
    ax.set_title("as it was")
    with pytest.raises(ImportError, match=r"labs\.plot\.show needs ipython.*\[notebook\]"):
        plot.show(figure, "a figure")
    assert ax.get_title() == "as it was"


@pytest.mark.parametrize("module", OPTIONAL)
def test_the_extra_that_is_named_has_the_package_and_is_the_smallest(module):
    package, extra = OPTIONAL[module]
    if module == "google":  # no requirement of ours: onnx brings it
        needed = importlib.metadata.requires("onnx")
        assert package in {Requirement(line).name for line in needed}
        package = "onnx"
    holding = {name: packages for name, packages in EXTRAS.items() if package in packages}
    assert extra == min(holding, key=lambda name: len(holding[name]))


@pytest.mark.parametrize("extra", SINGLE)
def test_an_extra_for_one_instrument_leaves_pytorch_alone(extra):
    wanted, seen = set(EXTRAS[extra]), set()
    while wanted:
        package = wanted.pop()
        seen.add(package)
        try:
            needed = map(Requirement, importlib.metadata.requires(package) or ())
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        here = {r.name.lower() for r in needed if not r.marker or r.marker.evaluate({"extra": ""})}
        wanted |= here - seen
    assert not {"torch", "torchvision", "jupyterlab"} & seen
    lines = map(Requirement, PROJECT["optional-dependencies"][extra])
    assert all("==" not in str(requirement.specifier) for requirement in lines)


def imports(tree):
    """Yield the module of each import that runs, so those for type checkers alone stay out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        yield from imports(node)


SOURCES = sorted((ROOT / "labs").rglob("*.py"))
ALWAYS = {Requirement(line).name.lower() for line in PROJECT["dependencies"]}
# torch and matplotlib require these themselves.
ALWAYS |= {"cycler"}


def test_whatever_is_imported_is_a_dependency_or_goes_through_extras():
    for path in SOURCES:
        for module in imports(ast.parse(path.read_text(encoding="utf-8"))):
            top = module.partition(".")[0]
            known = top in sys.stdlib_module_names or top == "labs"
            assert known or INSTALLED_AS.get(top, top).lower() in ALWAYS, f"{path}: {module}"


def test_whatever_goes_through_extras_is_listed():
    asked = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "optional":
                asked.add(node.args[0].value.partition(".")[0])
    assert asked == set(OPTIONAL)


def test_the_console_script_is_the_function_that_the_module_runs():
    assert PROJECT["scripts"] == {"labs": "labs.__main__:run"}
    from labs.__main__ import run

    assert callable(run)


SPDX = {"CC BY-SA 3.0": "CC-BY-SA-3.0", "MIT, like the code": "MIT"}
# Texts about a licence, which are under none that has a name.
NAMELESS = ("verbatim copying permitted", "as it says")


def test_the_licence_of_the_package_names_that_of_every_file_in_it():
    page = (ROOT / "labs/data/assets/LICENSES.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:5] for line in page.splitlines() if line.startswith("| `")]
    listed = {name.strip(" `") for row in rows for name in row[0].split(",")}
    shipped = {path.name for path in (ROOT / "labs/data/assets").iterdir()}
    assert listed | {"LICENSES.md"} == shipped
    licences = {row[3].strip() for row in rows} - set(NAMELESS)
    named = {"MIT"} | {SPDX.get(licence, licence) for licence in licences}
    assert set(PROJECT["license"].split(" AND ")) == named
    assert len(named) >= 4


def test_the_texts_of_the_licences_are_in_the_package():
    patterns = PROJECT["license-files"]
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    assets = ROOT / "labs/data/assets"
    texts = {path for path in assets.iterdir() if path.suffix in (".txt", ".md")}
    assert found == texts | {ROOT / "LICENSE"}
