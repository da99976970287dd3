"""What a page folds must be told from what is taught, and must hide nothing that is needed."""

import jupytext
import pytest

from tools.cells import kind, what_hides

CLAIM = '# %% tags=["nbval-check-output"]\n'


def hidden(text):
    cells = jupytext.reads(text, fmt="py:percent").cells
    return list(what_hides([cell for cell in cells if cell.cell_type == "code"]))


@pytest.mark.parametrize(
    ("source", "tags", "expected"),
    [
        ("figure, ax = plot.new()\nplot.show(figure, 'It falls.')", [], "figure"),
        ("plot.slide(frames, 'step', 'It moves.')", [], "figure"),
        ("claim('it holds', x > 0)", ["nbval-check-output"], "claim"),
        (
            "with torch.device('meta'):\n    claim('it holds', True)",
            ["nbval-check-output"],
            "claim",
        ),
        ("claim('it holds', True)", [], "taught"),  # the template asks for the tag
        ("print(1)", ["nbval-check-output"], "taught"),
        ("fixed = 1", ["hunt-solution", "hide-cell"], "solution"),
        ("helper = 1", ["hide-cell"], "folded"),
        ("net = Block()", [], "taught"),
        ("figure.show()", [], "taught"),
    ],
)
def test_the_kind_is_read_from_the_cell(source, tags, expected):
    assert kind(source, tags) == expected


def test_a_figure_that_binds_what_nobody_sees_hides_nothing():
    assert hidden("# %%\nfigure, ax = plot.new()\nplot.show(figure, 'a')\n# %%\nprint(1)\n") == []


@pytest.mark.parametrize(
    ("later", "names"),
    [
        ("print(gap)", "gap"),
        ("gap = gap + 1", "gap"),
        ("gap += 1", "gap"),
        ("def f():\n    return gap", "gap"),
        ("[gap for _ in range(3)]", "gap"),
        ("with gap:\n    pass", "gap"),
        ("for x in gap:\n    pass", "gap"),
    ],
)
def test_a_name_that_a_visible_cell_uses_is_named(later, names):
    (complaint,) = hidden(f"{CLAIM}gap = 1\nclaim('a', gap)\n# %%\n{later}\n")
    assert f"defines {names}, which a visible cell uses" in complaint


@pytest.mark.parametrize(
    "later",
    [
        "gap = 2\nprint(gap)",
        "for gap in range(3):\n    print(gap)",
        "[gap for gap in range(3)]",
        "def f(gap):\n    return gap",
        "import gap\ngap.x",
        "print(other.gap)",
    ],
)
def test_a_name_that_is_bound_anew_is_not_missed(later):
    assert hidden(f"{CLAIM}gap = 1\nclaim('a', gap)\n# %%\n{later}\n") == []


def test_a_name_may_pass_from_one_folded_cell_to_another_and_imports_to_all():
    assert hidden(f"{CLAIM}gap = 1\nclaim('a', gap)\n{CLAIM}claim('b', gap)\n") == []
    assert hidden("# %%\nfrom labs import plot\nplot.show(f, 'a')\n# %%\nplot.new()\n") == []


def test_a_name_bound_between_by_a_folded_cell_is_that_cells_fault():
    (complaint,) = hidden(
        f"{CLAIM}gap = 1\nclaim('a', gap)\n{CLAIM}gap = 2\nclaim('b', gap)\n# %%\nprint(gap)\n"
    )
    assert complaint.startswith("code cell 2 ")


@pytest.mark.parametrize(
    "call", ["fit(net)", "ablate(run)", "loss.backward()", "labs.ddp.launch(f)"]
)
def test_what_is_taught_is_never_folded(call):
    (complaint,) = hidden(f"# %%\n{call}\nplot.show(figure, 'a')\n")
    assert "is folded but calls" in complaint


def test_a_block_is_never_folded():
    (complaint,) = hidden("# %%\nclass Block:\n    pass\nplot.show(figure, 'a')\n")
    assert "defines a class" in complaint
