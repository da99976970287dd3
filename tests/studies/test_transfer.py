"""The two starts on trees: what varies, what stays, and what is scored."""

from itertools import islice

import numpy as np
import pytest
import torch

from labs.recipes import load
from labs.repro import seed_everything
from labs.studies.detection import transfer


def square(x=3, y=8, width=10, height=4):
    image = torch.zeros(3, 32, 32)
    image[:, y : y + height, x : x + width] = 1
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.zeros(1, dtype=torch.int64)}


def test_boxes_follow_all_eight_views():
    views = set()
    for seed in range(60):
        image, target = transfer.mirror([square()], np.random.default_rng(seed))
        x1, y1, x2, y2 = map(int, target["boxes"][0])
        assert image[:, y1:y2, x1:x2].min() == 1
        assert image.sum() == 3 * 40
        views.add((x1, y1, x2, y2))
    assert len(views) == 8


def test_the_truth_that_is_given_stays_as_it_was():
    example = square()
    before = example[1]["boxes"].clone()
    for seed in range(8):
        transfer.mirror([example], np.random.default_rng(seed))
    assert torch.equal(example[1]["boxes"], before)


def test_batches_come_in_an_order_of_the_seed_and_go_through_all_tiles():
    data = transfer.Few([square(x=k) for k in range(5)])
    once, again = (list(islice(transfer.Mirrored(data).batches(2, 3), 6)) for _ in range(2))
    other = list(islice(transfer.Mirrored(data).batches(2, 4), 6))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(once, other, strict=True))
    assert [len(images) for images, _ in once] == [2, 2, 1] * 2


def test_digits_carry_all_but_the_rows_of_the_classes_and_nothing_carries_nothing():
    theirs = load(transfer.DETECTOR).network.state_dict()
    for start, expected in (("digits", 0.99), ("nothing", 0.2)):
        own = transfer.begin(start).network.state_dict()
        weights = [key for key, tensor in own.items() if tensor.ndim == 4 and key in theirs]
        same = sum(torch.equal(own[key], theirs[key]) for key in weights if "classes" not in key)
        share = same / sum("classes" not in key for key in weights)
        assert share >= expected if start == "digits" else share <= expected


def test_a_length_starts_anew_and_all_scores_come_last():
    seed_everything(0)
    points = list(transfer.compare_starts("digits", 4, (11, 12)))
    assert [point["step"] for point in points] == [1, 5, 10, 11, 12, 16, 21, 23]
    assert points[4]["loss"] > points[3]["loss"]
    scores = {f"{name} after {n}" for name in ("AP50", "elsewhere") for n in (11, 12)}
    assert set(points[-1]) == {"step", "loss"} | scores
    assert all(set(point) == {"step", "loss"} for point in points[:-1])


def test_tiles_that_are_held_out_are_of_the_seed_and_none_is_learnt_from(monkeypatch):
    learnt = []

    def remember(detector, train, judge, pictures, steps, *rest, **more):
        learnt.append((train.data.examples, pictures[: transfer.HELD_OUT]))
        yield {"step": 1, "loss": 0.0, "AP50": 0.0, "elsewhere": 0.0}

    monkeypatch.setattr(transfer, "learn", remember)
    for seed in (0, 0, 1):
        seed_everything(seed)
        list(transfer.compare_starts("nothing", 16, (20,)))
    (examples, held), (_, again), (_, other) = learnt
    assert torch.equal(held, again)
    assert not torch.equal(held, other)
    inside = {image.mul(255).round().byte().numpy().tobytes() for image, _ in examples}
    assert len(inside) == 16
    assert not any(image.numpy().tobytes() in inside for image in held)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_tiles_are_fitted_to_one_size(split):
    tiles = transfer._tiles(split)
    assert all(image.shape == (3, transfer.SIZE, transfer.SIZE) for image, _ in tiles)
    assert all(len(target["boxes"]) for _, target in tiles)
