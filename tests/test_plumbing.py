"""What is left out of stamps must exist, have a reason, and be unable to change a number."""

import ast
import importlib
import inspect

import pytest

from labs.stamp import PLUMBING, ROOT

MOST = 8
PRINTED = ("print", "sys.exit")
TEXT = {"str", "list", "tuple", "None", "Iterator", "Iterable"}  # what an annotation of words names


def package():
    """Return the syntax tree of every module, by name."""
    files = sorted((ROOT / "labs").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return dict(zip(names, (ast.parse(path.read_text()) for path in files), strict=True))


def all_of(kind, tree):
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def leaks(trees, home, name, seen=()):
    """Say where what a function gives, and any text made of it, becomes more than words.

    Words end in a ``raise``, are printed, or are returned as texts, and then the callers of that
    function are followed.
    """
    found = []
    for where, tree in trees.items():
        for function in all_of(ast.FunctionDef, tree) if knows(where, tree, home, name) else ():
            calls = [c for c in all_of(ast.Call, function) if getattr(c.func, "id", "") == name]
            ends = [end for call in calls for end in statements(function, call)]
            wrong = [end for end in ends if not is_words(tree, function, end)]
            found += [f"{where}.{function.name}" for _ in wrong]
            returned = any(isinstance(end, ast.Return) for end in ends)
            if returned and (where, function.name) not in seen:
                found += leaks(trees, where, function.name, (*seen, (home, name)))
    return found


def knows(where, tree, home, name):
    """Tell whether a name in a module is the function of that module."""
    imports = [node for node in all_of(ast.ImportFrom, tree) if home.startswith(node.module or "?")]
    return where == home or name in {alias.name for node in imports for alias in node.names}


def is_words(tree, function, end):
    value = getattr(end, "value", None)
    if isinstance(end, ast.Expr) and isinstance(value, ast.Call):
        raising = [name for name, one in functions_of(tree).items() if annotates(one, {"NoReturn"})]
        return ast.unparse(value.func) in (*PRINTED, *raising)
    given = isinstance(end, ast.Return) or isinstance(value, ast.Yield)
    return isinstance(end, ast.Raise) or (given and annotates(function, TEXT))


def annotates(function, allowed):
    """Tell whether what a function is said to return is made of these names alone."""
    names = {node.id for node in all_of(ast.Name, function.returns or ast.Name("Any"))}
    return names <= allowed


def statements(function, value):
    """Follow a value through the names it is given, and what hangs on it, to where it ends."""
    above = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
    todo, seen, ends = [value], set(), []
    while todo:
        node = todo.pop()
        while not isinstance(node, ast.stmt | ast.NamedExpr):
            node = above[node]
        if node in seen:
            continue
        seen.add(node)
        targets = getattr(node, "targets", None) or [getattr(node, "target", appended_to(node))]
        if isinstance(node, ast.If):
            todo += [*node.body, *node.orelse]
        elif all(isinstance(target, ast.Name) for target in targets):
            names = {target.id for target in targets}
            loads = [n for n in all_of(ast.Name, function) if isinstance(n.ctx, ast.Load)]
            todo += [load for load in loads if load.id in names]
            todo += [above[node]] if isinstance(node, ast.NamedExpr) else []
        else:
            ends.append(node)
    return ends


def appended_to(node):
    method = getattr(getattr(node, "value", None), "func", None)
    is_append = isinstance(node, ast.Expr) and getattr(method, "attr", "") == "append"
    return method.value if is_append else None


def effects(functions, name):
    """Say what a function, and those of its module that it calls, does besides raising."""
    reached, todo = set(), [name]
    while todo:
        if (one := todo.pop()) not in reached:
            reached.add(one)
            todo += [n.id for n in all_of(ast.Name, functions[one]) if n.id in functions]
    bodies = ast.Module([functions[one] for one in reached], [])
    held = all_of(ast.Attribute | ast.Subscript, bodies)
    stored = [node for node in held if not isinstance(node.ctx, ast.Load)]
    called = [n.value for n in all_of(ast.Expr, bodies) if isinstance(n.value, ast.Call)]
    others = [call for call in called if ast.unparse(call.func) not in reached]
    given = [n for n in all_of(ast.Return, bodies) if n.value is not None]
    scopes = all_of(ast.Global | ast.Nonlocal | ast.Delete, bodies)
    return [ast.unparse(node) for node in (*stored, *others, *given, *scopes)]


def functions_of(source):
    tree = ast.parse(source) if isinstance(source, str) else source
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("function", "reason"), PLUMBING.items())
def test_each_entry_is_a_function_that_the_package_imports_and_has_a_reason(function, reason):
    module, _, name = function.rpartition(".")
    assert inspect.isfunction(getattr(importlib.import_module(module), name))
    assert len(reason.split()) >= 6
    imports = [node for tree in package().values() for node in all_of(ast.ImportFrom, tree)]
    taken = {alias.name for node in imports if node.module == module for alias in node.names}
    assert name in taken, "nobody takes it by this name, so the entry exempts nothing"


def test_the_list_is_short():
    assert len(PLUMBING) <= MOST, "leave out what no output can show, and nothing else"


@pytest.mark.parametrize("function", PLUMBING)
def test_no_entry_can_change_a_number(function):
    module, _, name = function.rpartition(".")
    trees = package()
    functions = functions_of(trees[module])
    kind = ast.unparse(functions[name].returns)
    if kind == "None":
        assert all_of(ast.Raise, trees[module])
        assert effects(functions, name) == []
    elif kind == "str":
        assert leaks(trees, module, name) == []
    else:  # an import, made where it is needed
        assert function == "labs.extras.optional", f"{function} returns {kind}, not words"
        returns = [ast.unparse(node) for node in all_of(ast.Return, functions[name])]
        assert returns == ["return importlib.import_module(module)"]


@pytest.mark.parametrize(
    ("body", "leak"),
    [
        pytest.param("raise KeyError(f'no {guess(x)}')", False, id="raised"),
        pytest.param("hint = guess(x)\n    raise KeyError('no' + hint)", False, id="by a name"),
        pytest.param("if h := guess(x):\n        return h\n    return ''", False, id="returned"),
        pytest.param("print(guess(x))\n    return ''", False, id="printed"),
        pytest.param("s = []\n    s.append(guess(x))\n    raise KeyError(s)", False, id="appended"),
        pytest.param("_refuse(x, f'no {guess(x)}')", False, id="by a function that raises"),
        pytest.param("return len(guess(x))", True, id="in a number"),
        pytest.param("layers[guess(x)] = 1", True, id="as a key"),
        pytest.param("h = guess(x)\n    x.name = h\n    raise KeyError", True, id="kept"),
        pytest.param("if guess(x):\n        scale(x)\n    raise KeyError", True, id="decides"),
        pytest.param("fill(x, guess(x))", True, id="given away"),
        pytest.param("s = []\n    s.append(guess(x))\n    scale(s)", True, id="appended, used"),
    ],
)
def test_words_that_become_more_than_words_are_found(body, leak):
    kind = "int" if "len" in body else "str"
    refuse = "def _refuse(x, words) -> NoReturn:\n    raise KeyError(words)\n"
    tree = ast.parse(f"{refuse}def caller(x) -> {kind}:\n    {body}")
    assert leaks({"m": tree}, "m", "guess") == (["m.caller"] if leak else [])


def test_the_callers_of_a_function_that_returns_words_are_followed():
    words = "def words(x) -> str:\n    return guess(x)\n"
    fine = ast.parse(words + "def caller(x) -> None:\n    raise KeyError(words(x))")
    assert leaks({"m": fine}, "m", "guess") == []
    bad = ast.parse(words + "def caller(x) -> int:\n    return len(words(x))")
    assert leaks({"m": bad}, "m", "guess") == ["m.caller"]


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        ("x.scale = 2", "x.scale"),
        ("x[0] = 2", "x[0]"),
        ("x.eval()", "x.eval()"),
        ("return 2", "return 2"),
        ("global y", "global y"),
        ("del x", "del x"),
        ("torch.manual_seed(0)", "torch.manual_seed(0)"),
    ],
)
def test_a_refusal_that_does_more_than_refuse_is_found(line, effect):
    source = f"def refuse(x):\n    other(x)\n\ndef other(x):\n    {line}\n"
    assert effects(functions_of(source), "refuse") == [effect]
    fine = "def refuse(x):\n    y = x.size\n    if y > 3:\n        raise ValueError(y)\n"
    assert effects(functions_of(fine), "refuse") == []
