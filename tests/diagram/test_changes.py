"""Every number that can be another one is another one, and a difference is found."""

import pytest
import torch

from labs.diagram.changes import changed, distance

NAN, INF = float("nan"), float("inf")


def luck():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.randn(50), id="floats"),
        pytest.param(torch.zeros(5), id="zeros"),
        pytest.param(torch.full((5,), 1e4), id="constant"),
        pytest.param(torch.randn(50).half(), id="half"),
        pytest.param(torch.randn(50, dtype=torch.complex64), id="complex"),
        pytest.param(torch.tensor(3.0), id="one number"),
    ],
)
def test_every_number_moves_by_a_fair_share(tensor):
    found = list(changed([tensor], "a", luck()))
    assert len(found) == 4
    spread = (tensor - tensor.mean()).abs().square().mean().sqrt().item() or tensor.abs().mean()
    step = float(spread) or 1.0
    for (twin,), size in zip(found, (1, 1, 10, 10), strict=True):
        moved = (twin - tensor).abs().float()
        assert twin.dtype == tensor.dtype
        assert (moved > 0.4 * size * step).all()
        assert (moved < 1.7 * size * step).all()


def test_numbers_move_up_and_down():
    for (twin,) in changed([torch.zeros(100)], "a", luck()):
        assert 20 < int((twin > 0).sum()) < 80


def test_infinities_stay():
    for (twin,) in changed([torch.tensor([-INF, 0.0, 1.0])], "a", luck()):
        assert twin[0] == -INF
        assert twin[1:].isfinite().all()


def test_integers_stay_where_they_can_be_indices():
    given = torch.tensor([2, 7, 3, 5] * 10)
    seen = torch.cat([twin[0] for twin in changed([given], "a", luck())])
    assert set(seen.tolist()) == {2, 3, 4, 5, 6, 7}
    assert seen.dtype == given.dtype


def test_truth_values_are_flipped():
    given = torch.tensor([True, False] * 20)
    some, _, every, _ = (twin[0] for twin in changed([given], "a", luck()))
    assert 0 < int((some != given).sum()) < 40
    assert (every != given).all()


def test_what_is_beside_it_stays():
    held = {"found": torch.ones(3), "empty": torch.zeros(0), "word": "x"}
    for twin in changed(held, "a", luck()):
        assert twin["word"] == "x"
        assert twin["empty"].shape == (0,)
        assert (twin["found"] != 1).all()


@pytest.mark.parametrize(
    "value", [[], "word", torch.zeros(0), torch.tensor([4]), torch.tensor([INF])]
)
def test_what_cannot_be_changed_is_refused(value):
    with pytest.raises(ValueError, match="'a' holds nothing that can be changed"):
        next(changed(value, "a", luck()))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="'a' holds NaN, so no change"):
        next(changed([torch.tensor([1.0, NAN])], "a", luck()))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([], [], 0, id="none"),
        pytest.param([[1.0, 2.0]], [[1.0, 2.0]], 0, id="equal"),
        pytest.param([[1.0], [2.0, 5.0]], [[1.5], [2.0, 3.0]], 2, id="the largest of all"),
        pytest.param([[INF, NAN, -INF]], [[INF, NAN, -INF]], 0, id="infinite and NaN, equal"),
        pytest.param([[1.0]], [[NAN]], INF, id="NaN in one"),
        pytest.param([[INF]], [[-INF]], INF, id="two infinities"),
        pytest.param([[1.0]], [[1.0], [2.0]], INF, id="one more"),
        pytest.param([[1.0]], [[1.0, 1.0]], INF, id="another shape"),
        pytest.param([[]], [[]], 0, id="empty"),
        pytest.param([[True, False]], [[True, True]], 1, id="truth values"),
        pytest.param([[1 + 1j]], [[1 - 1j]], 2, id="complex"),
    ],
)
def test_distance(first, second, expected):
    first, second = (list(map(torch.tensor, tensors)) for tensors in (first, second))
    assert distance(first, second) == expected
    assert distance(second, first) == expected
