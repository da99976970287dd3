"""Each kind of error planted alone, the counts that add up, and AP equal to COCO's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.metrics import ERRORS, coco_map, error_breakdown

A, B = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
NEAR = [0.0, 0, 10, 4]  # IoU 0.4 with A
FAR = [200.0, 0, 210, 10]


def target(boxes, labels, **more):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels).long()} | {
        k: torch.tensor(v) for k, v in more.items()
    }


def prediction(boxes, labels, scores):
    return target(boxes, labels, scores=scores)


# Two objects, A of class 0 and B of class 1; B is always found.
PLANTED = {
    "classification": (prediction([A, B], [1, 1], [0.9, 0.8]), {"classification": 1}, 0.75),
    "localisation": (prediction([NEAR, B], [0, 1], [0.9, 0.8]), {"localisation": 1}, 0.5),
    "both": (prediction([A, B, NEAR], [0, 1, 1], [0.9, 0.5, 0.8]), {"both": 1}, 0.25),
    "duplicate": (
        prediction([A, B, B], [0, 1, 1], [0.9, 0.8, 0.7]),
        {"duplicate": 1},
        0.0,  # false after full recall: COCO's AP does not see it
    ),
    "background": (prediction([A, B, FAR], [0, 1, 1], [0.9, 0.8, 0.85]), {"background": 1}, 0.25),
    "missed": (prediction([B], [1], [0.8]), {"missed": 1}, 0.5),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_an_error_planted_alone_is_named_and_priced(kind):
    guess, counts, gain = PLANTED[kind]
    result = error_breakdown([guess], [target([A, B], [0, 1])])
    assert result.counts == {**dict.fromkeys(ERRORS, 0), **counts}
    assert result.gains[kind] == pytest.approx(gain)
    assert all(abs(other) < 1e-12 for k, other in result.gains.items() if k != kind)
    assert result.AP + gain == pytest.approx(1)


def test_a_duplicate_costs_where_it_stands_before_another_hit():
    guess = prediction([A, A, B], [0, 0, 0], [0.9, 0.8, 0.7])
    result = error_breakdown([guess], [target([A, B], [0, 0])])
    assert result.counts["duplicate"] == 1
    assert result.gains["duplicate"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)


def test_of_two_that_claim_an_object_the_higher_score_gets_it():
    guess = prediction([NEAR, NEAR], [0, 0], [0.9, 0.8])
    result = error_breakdown([guess], [target([A], [0])])
    assert result.counts["localisation"] == 2
    assert result.counts["missed"] == 0
    assert result.gains["localisation"] == 1
    found = prediction([NEAR, A], [0, 0], [0.9, 0.8])
    mended = error_breakdown([found], [target([A], [0])])
    assert mended.gains["localisation"] == 0.5  # taken away, for A is found already


@pytest.mark.parametrize(
    ("iou", "kind"),
    [(0.3, "found"), (0.4, "found"), (0.41, "localisation")],
)
def test_the_thresholds_decide(iou, kind):
    guess, truth = [prediction([NEAR], [0], [0.9])], [target([A], [0])]
    assert error_breakdown(guess, truth, iou=iou).predictions["verdict"].tolist() == [kind]


def test_the_background_threshold_decides():
    guess, truth = [prediction([NEAR], [0], [0.9])], [target([A], [0])]
    at, above = (error_breakdown(guess, truth, background_iou=b) for b in (0.4, 0.45))
    assert at.counts["localisation"] == 1
    assert (above.counts["background"], above.counts["missed"]) == (1, 1)


def test_only_the_best_predictions_of_a_class_count():
    guess = prediction([A, FAR, FAR], [0, 0, 1], [0.9, 0.8, 0.1])
    result = error_breakdown([guess], [target([A], [0])], max_detections=1)
    assert result.counts["background"] == 1
    assert result.predictions["prediction"].tolist() == [0, 2]


def test_crowds_and_ignored_objects_are_no_errors():
    truth = target([A, B, FAR], [0, 0, 0], iscrowd=[1, 0, 0], ignore=[0, 1, 0])
    part = [0.0, 0, 3, 3]  # all inside the crowd, IoU 0.09
    guess = prediction([part, part, B, B, FAR], [0] * 5, [0.9, 0.8, 0.7, 0.6, 0.5])
    result = error_breakdown([guess], [truth])
    verdicts = ["ignored", "ignored", "ignored", "background", "found"]
    assert result.predictions["verdict"].tolist() == verdicts
    assert result.objects == 1


def test_the_predictions_are_listed_with_their_place_and_object():
    guess = prediction([FAR, NEAR, B], [0, 0, 1], [0.2, 0.9, 0.5])
    truth = target([B, A], [1, 0])
    blank = prediction([], [], [])
    rows = error_breakdown([blank, guess], [target([], []), truth], ["cat", "dog"]).predictions
    assert rows["image"].tolist() == [1, 1, 1]
    assert rows["prediction"].tolist() == [1, 2, 0]
    assert rows["class"].tolist() == ["cat", "dog", "cat"]
    assert rows["verdict"].tolist() == ["localisation", "found", "background"]
    assert rows["object"].tolist() == [1, 0, -1]


# Few places, classes and scores, so that overlaps, ties and duplicates are common.
spots = st.tuples(
    *[st.sampled_from([0.0, 2.0, 5.0, 20.0])] * 2, *[st.sampled_from([5.0, 8, 10])] * 2
)
boxes = spots.map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
labels, flags = st.integers(0, 2), st.sampled_from([0, 0, 0, 1])
truths = st.lists(st.tuples(boxes, labels, flags, flags), max_size=5)
guesses = st.lists(st.tuples(boxes, labels, st.sampled_from([0.25, 0.5, 0.75])), max_size=6)


def scene(drawn):
    predicted, wanted = [], []
    for guess, truth in drawn:
        box, label, score = map(list, zip(*guess, strict=True)) if guess else ([], [], [])
        predicted.append(prediction(box, label, score))
        box, label, crowd, ignore = map(list, zip(*truth, strict=True)) if truth else [[]] * 4
        wanted.append(target(box, label, iscrowd=crowd, ignore=ignore))
    return predicted, wanted


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(guesses, truths), min_size=1, max_size=3),
    st.sampled_from([0.3, 0.5, 0.75]),
    st.sampled_from([1, 2, 100]),
)
def test_ap_equals_coco_and_the_counts_add_up(drawn, iou, limit):
    predictions, targets = scene(drawn)
    result = error_breakdown(predictions, targets, iou=iou, max_detections=limit)
    coco = coco_map(predictions, targets, ious=[iou], max_detections=[limit])
    np.testing.assert_allclose(result.AP, coco.AP, atol=1e-9)
    assert result.objects == sum(coco.objects)
    rows = result.predictions
    verdicts = rows["verdict"].value_counts()
    false = sum(result.counts[kind] for kind in ERRORS if kind != "missed")
    assert false + verdicts.get("found", 0) + verdicts.get("ignored", 0) == len(rows)
    wanting = rows[rows["verdict"].isin(["found", "classification", "localisation"])]
    helped = len(wanting.drop_duplicates(["image", "object"]))
    assert helped + result.counts["missed"] == result.objects
    if result.objects:
        assert all(-1e-12 <= gain <= 1 - result.AP + 1e-12 for gain in result.gains.values())


def test_without_objects_or_images_there_is_no_ap():
    result = error_breakdown([prediction([A], [0], [0.9])], [target([], [])])
    assert result.counts["background"] == 1
    assert np.isnan(result.AP)
    assert np.isnan(result.gains["background"])
    assert error_breakdown([], []).objects == 0


def test_the_table_the_repr_and_the_bars():
    from labs import plot

    guess, *_ = PLANTED["missed"]
    result = error_breakdown([guess], [target([A, B], [0, 1])])
    table = result.table()
    assert table.index.tolist() == list(ERRORS)
    assert table.loc["missed", ["count", "gain"]].tolist() == [1, 0.5]
    assert repr(result).startswith("ErrorBreakdown(AP@0.50=0.500, classification 0,")
    _, ax = plot.new()
    assert result.plot(ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0, 0, 0, 0, 0]
    assert ax.texts[0].get_text().strip() == "1"


def test_the_input_stays_and_nothing_is_printed(capfd):
    guess, *_ = PLANTED["both"]
    before = {k: v.clone() for k, v in guess.items()}
    error_breakdown([guess], [target([A, B], [0, 1])])
    assert all(torch.equal(guess[k], before[k]) for k in before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "settings",
    [{"iou": 0.05}, {"background_iou": 0.0}, {"iou": 1.5}, {"max_detections": 0}],
)
def test_wrong_thresholds_are_named(settings):
    guess, *_ = PLANTED["both"]
    with pytest.raises(ValueError, match=r"expected 0 < background_iou < iou <= 1 and .* got"):
        error_breakdown([guess], [target([A, B], [0, 1])], **settings)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="xywh"):
        error_breakdown([prediction([[9, 9, 2, 2]], [0], [0.5])], [target([], [])])
