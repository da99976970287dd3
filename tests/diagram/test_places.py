"""A part is a layer or some tensors of an end, and no two parts share anything."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from labs.diagram.places import Place, find_places, inside, select
from tests.models import DictOutput, SharedLayer

Scores = namedtuple("Scores", ["score", "scores"])
HELD = (torch.zeros(1), {"a": torch.zeros(2), "ab": [torch.zeros(3)]}, Scores(*torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("target", "paths"),
    [
        ("", ["[0]", "[1]['a']", "[1]['ab'][0]", "[2].score", "[2].scores"]),
        ("[1]", ["[1]['a']", "[1]['ab'][0]"]),
        ("[1]['ab']", ["[1]['ab'][0]"]),
        ("[1]['ab'][0]", ["[1]['ab'][0]"]),
        ("[2].score", ["[2].score"]),
        ("[2].s", []),
        ("[3]", []),
    ],
)
def test_what_is_inside(target, paths):
    assert list(inside(Place("output", target), HELD)) == paths


def test_a_part_with_no_tensor_is_refused():
    assert list(select(Place("output", "[0]"), HELD, "a")) == ["[0]"]
    words = r"part 'a': no tensor at 'output\[2\].scor'; did you mean 'output\[2\].score"
    with pytest.raises(KeyError, match=words):
        select(Place("output", "[2].scor"), HELD, "a")
    with pytest.raises(KeyError, match="there are none"):
        select(Place("input", ""), "word", "a")


def test_names_patterns_and_short_names():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert find_places(net, ["output[0]", "?", "input"]) == {
        "output[0]": Place("output", "[0]"),
        "0": Place("layer", "0"),
        "1": Place("layer", "1"),
        "input": Place("input", ""),
    }
    assert find_places(net, {"first": "0", "x": "input.mask"}) == {
        "first": Place("layer", "0"),
        "x": Place("input", ".mask"),
    }


def test_a_layer_under_two_names_is_one_part():
    assert find_places(SharedLayer(), ["right"]) == {"right": Place("layer", "right")}
    with pytest.raises(ValueError, match="parts 'left' and 'right' are one layer; name it once"):
        find_places(SharedLayer(), ["left", "right"])


def test_two_parts_of_one_end_may_not_overlap():
    whole = ["output", "output['aux']", "output['aux'][0]"]
    for first in whole:
        for second in whole:
            if first != second:
                with pytest.raises(ValueError, match="do not contain each other"):
                    find_places(DictOutput(), [first, second])
    assert len(find_places(DictOutput(), ["output['aux']", "output['out']", "input"])) == 3


@pytest.mark.parametrize("kind", [Place])
def test_results_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
