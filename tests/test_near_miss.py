import pytest

from labs.near_miss import did_you_mean

LAYERS = ["layer1", "layer2", "stem", "head"]


@pytest.mark.parametrize(
    ("name", "settings", "hint"),
    [
        pytest.param("haed", {}, "; did you mean 'head'?", id="letters swapped"),
        pytest.param("layer9", {"most": 2}, "; did you mean 'layer2' or 'layer1'?", id="two"),
        pytest.param("backbone", {"most": 3}, "", id="unlike all"),
        pytest.param("hxxd", {}, "", id="not alike enough"),
        pytest.param("hxxd", {"cutoff": 0.4}, "; did you mean 'head'?", id="alike enough"),
    ],
)
def test_the_hint(name, settings, hint):
    assert did_you_mean(name, LAYERS, **settings) == hint


def test_no_names_at_all():
    assert did_you_mean("head", []) == ""


def test_names_that_are_no_strings():
    assert did_you_mean(12, {123: "a", None: "b"}) == "; did you mean '123'?"


def test_names_from_a_generator():
    assert did_you_mean("stm", (name for name in LAYERS)) == "; did you mean 'stem'?"
