"""AP against pycocotools, at the edges, and its error messages."""

import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.metrics import coco_map, detections

pycocotools = pytest.importorskip("pycocotools")
CLASSES = ("cat", "dog", "owl")
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def target(boxes, labels=None, **more):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels).long()
    return {"boxes": boxes, "labels": labels, **{k: torch.tensor(v) for k, v in more.items()}}


def prediction(boxes, scores, labels=None):
    return target(boxes, labels, scores=scores)


def perfect(targets):
    return [
        {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["boxes"]))}
        for t in targets
    ]


def reference(predictions, targets, iou_type="bbox", max_detections=(1, 10, 100)):
    """Run pycocotools the slow, plain way, with the ignore flag honoured as its paper says."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def shapes(image, i):
        x1, y1, x2, y2 = image["boxes"][i].double().tolist()
        area = (x2 - x1) * (y2 - y1)
        if iou_type == "bbox":
            return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
        pixels = np.asfortranarray(image["masks"][i].numpy().astype(np.uint8))
        return {"segmentation": mask.encode(pixels), "area": float(pixels.sum())}

    truth, results = [], []
    for number, (p, t) in enumerate(zip(predictions, targets, strict=True)):
        for i, label in enumerate(t["labels"].tolist()):
            flags = {
                "iscrowd": int(t["iscrowd"][i]) if "iscrowd" in t else 0,
                "mine": int(t["ignore"][i]) if "ignore" in t else 0,
            }
            place = {"id": len(truth) + 1, "image_id": number, "category_id": label}
            truth.append({**place, **flags, **shapes(t, i)})
        for i, label in enumerate(p["labels"].tolist()):
            place = {"image_id": number, "category_id": label, "score": p["scores"][i].item()}
            results.append({**place, **shapes(p, i)})
    size = {"height": 16, "width": 16}
    images = [{"id": i, **size} for i in range(len(targets))]
    cats = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "categories": cats, "annotations": truth, "info": {}}
        coco.createIndex()
        found = coco.loadRes(results) if results else COCO()
        judge = COCOeval(coco, found, iou_type)
        judge.params.maxDets = list(max_detections)
        prepare = judge._prepare

        def prepare_with_ignored():
            prepare()
            for annotation in coco.anns.values():
                annotation["ignore"] = annotation["iscrowd"] or annotation["mine"]

        judge._prepare = prepare_with_ignored
        judge.evaluate()
        judge.accumulate()
        if tuple(max_detections) == (1, 10, 100):
            judge.summarize()
    return judge


def assert_equal_to_reference(predictions, targets, **settings):
    mine = coco_map(predictions, targets, CLASSES, **settings)
    judge = reference(predictions, targets, **settings)
    for key, value in (("precision", mine.precision), ("recall", mine.recall)):
        expected = judge.eval[key]
        np.testing.assert_allclose(np.nan_to_num(value, nan=-1), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        np.nan_to_num(mine.scores, nan=-1), judge.eval["scores"], rtol=0, atol=1e-6
    )
    if len(judge.stats):
        recalls = [mine.average_recall(detections=n) for n in (1, 10, 100)]
        sizes = [mine.average_recall(area=a) for a in ("small", "medium", "large")]
        ours = [getattr(mine, name) for name in STATS] + recalls + sizes
        np.testing.assert_allclose(np.nan_to_num(ours, nan=-1), judge.stats, rtol=0, atol=1e-6)


# Few places and few scores, so that ties, duplicates and exact IoU thresholds are common.
places = st.sampled_from([0.0, 1.0, 4.0, 20.0, 33.5])
sides = st.sampled_from([1.0, 2.0, 4.0, 8.0, 31.0, 97.0])
boxes = st.tuples(places, places, sides, sides).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
labels = st.integers(0, 2)
flags = st.sampled_from([0, 0, 0, 1])
truths = st.lists(st.tuples(boxes, labels, flags, flags), max_size=5)
guesses = st.lists(st.tuples(boxes, labels, st.sampled_from([0.2, 0.5, 0.9])), max_size=6)
images = st.lists(st.tuples(guesses, truths), min_size=1, max_size=3)


def scene(drawn):
    """Turn drawn tuples into predictions and targets."""
    empty = ([], [], [], [])
    predicted, wanted = [], []
    for guess, truth in drawn:
        box, label, score, *_ = zip(*guess, strict=True) if guess else empty
        predicted.append(prediction(list(box), list(score), list(label)))
        box, label, crowd, ignore = zip(*truth, strict=True) if truth else empty
        wanted.append(target(list(box), list(label), iscrowd=list(crowd), ignore=list(ignore)))
    return predicted, wanted


@settings(max_examples=400, deadline=None)
@given(images)
def test_equals_pycocotools(drawn):
    assert_equal_to_reference(*scene(drawn))


@settings(max_examples=40, deadline=None)
@given(images, st.sampled_from([(1, 2), (2,), (1, 3, 300)]))
def test_equals_pycocotools_with_other_limits(drawn, limits):
    predictions, targets = scene(drawn)
    assert_equal_to_reference(predictions, targets, max_detections=limits)


@settings(max_examples=30, deadline=None)
@given(images)
def test_duplicates_never_raise_ap(drawn):
    predictions, targets = scene(drawn)
    # Objects far apart: a second prediction may rightly find a neighbour that the first left.
    for image in (*predictions, *targets):
        image["boxes"][:, 0::2] += 200 * torch.arange(len(image["boxes"]))[:, None]
    twice = [{k: torch.cat([v, v]) for k, v in p.items()} for p in predictions]
    once, doubled = (coco_map(p, targets, CLASSES).AP for p in (predictions, twice))
    assert np.isnan(once) or doubled <= once + 1e-12


def test_a_duplicate_before_another_hit_lowers_ap():
    truth = [target([[0, 0, 10, 10], [50, 50, 60, 60]])]
    spots = truth[0]["boxes"][[0, 0, 1]].tolist()
    assert coco_map([prediction(spots, [0.9, 0.8, 0.7])], truth).AP < 1


@settings(max_examples=30, deadline=None)
@given(images)
def test_the_truth_itself_scores_exactly_one(drawn):
    _, targets = scene(drawn)
    targets = [target(t["boxes"].unique(dim=0).tolist()) for t in targets]
    result = coco_map(perfect(targets), targets)
    assert result.AP == 1.0 or (sum(result.objects) == 0 and np.isnan(result.AP))


def test_the_order_of_images_and_objects_changes_nothing():
    torch.manual_seed(0)
    corners = torch.rand(4, 6, 2) * 40
    true = torch.cat([corners, corners + 10], 2)
    guessed = true + torch.randn(4, 6, 4)
    scores, labels = torch.rand(4, 6), torch.arange(6) % 3
    mixed, images = torch.randperm(6), torch.randperm(4)

    def result(order, images):
        truth = [{"boxes": true[i, order], "labels": labels[order]} for i in images]
        guess = [
            {"boxes": guessed[i, order], "labels": labels[order], "scores": scores[i, order]}
            for i in images
        ]
        return coco_map(guess, truth, CLASSES)

    first, second = result(torch.arange(6), range(4)), result(mixed, images)
    assert 0 < first.AP < 1
    np.testing.assert_array_equal(first.precision, second.precision)
    np.testing.assert_array_equal(first.recall, second.recall)


@pytest.mark.parametrize("predicted", [True, False], ids=["predictions", "no predictions"])
@pytest.mark.parametrize("present", [True, False], ids=["objects", "no objects"])
def test_empty_cases_equal_pycocotools(predicted, present):
    box = [[0, 0, 10, 10]]
    guess = prediction(box, [0.9]) if predicted else prediction([], [])
    truth = target(box) if present else target([])
    assert_equal_to_reference([guess], [truth])
    expected = float(predicted) if present else np.nan
    np.testing.assert_equal(coco_map([guess], [truth]).AP, expected)


def test_no_image_at_all_scores_nothing():
    assert np.isnan(coco_map([], []).AP)
    assert coco_map([], [], CLASSES).objects == (0, 0, 0)


def test_masks_equal_pycocotools():
    torch.manual_seed(0)
    shapes = torch.rand(2, 3, 16, 16).repeat_interleave(2, 3)[..., :16] > 0.4
    noisy = shapes ^ (torch.rand(2, 3, 16, 16) > 0.9)
    box = [[0, 0, 16, 16]] * 3
    targets = [{**target(box, [0, 1, 2], iscrowd=[0, 0, 1]), "masks": m} for m in shapes]
    predictions = [{**prediction(box, [0.9, 0.5, 0.7], [0, 1, 2]), "masks": m} for m in noisy]
    assert_equal_to_reference(predictions, targets, iou_type="segm")
    soft = [{**p, "masks": p["masks"][:, None]} for p in predictions]  # [n,1,H,W]
    assert 0 < coco_map(soft, targets, iou_type="segm").AP < 1


def test_a_prediction_on_an_image_without_objects_is_false():
    box = [[0, 0, 10, 10]]
    targets = [target(box), target([])]
    found, false = prediction(box, [0.5]), prediction(box, [0.9])
    assert coco_map([found, prediction([], [])], targets).AP == 1
    assert coco_map([found, false], targets).AP == 0.5


def test_an_ignored_object_is_neither_wanted_nor_held_against_a_prediction():
    truth = [target([[0, 0, 10, 10], [50, 50, 60, 60]], ignore=[0, 1])]
    assert coco_map([prediction([[0, 0, 10, 10]], [0.5])], truth).AP == 1
    both = prediction([[0, 0, 10, 10], [50, 50, 60, 60]], [0.5, 0.9])
    assert coco_map([both], truth).AP == 1
    thrice = prediction([[0, 0, 10, 10], *[[50, 50, 60, 60]] * 2], [0.5, 0.9, 0.9])
    assert coco_map([thrice], truth).AP == 0.5  # not a crowd: the second on it is false


@pytest.mark.parametrize("limits", [(1, 10, 100), (10, 20, 300), (300,), (20, 5)])
def test_ap_is_measured_at_the_highest_limit(limits):
    spots = [[20 * i, 0, 20 * i + 10, 10] for i in range(15)]
    result = coco_map([prediction(spots, [0.9] * 15)], [target(spots)], max_detections=limits)
    assert result.max_detections == tuple(sorted(limits))
    assert result.AP == 1
    np.testing.assert_equal(result.AP, np.nanmean(result.precision[:, :, :, 0, -1]))
    for limit in result.max_detections:
        assert result.average_recall(detections=limit) == pytest.approx(min(limit, 15) / 15)


def test_area_decides_the_size():
    box = [[0, 0, 10, 10]]
    large = coco_map([prediction(box, [0.9])], [target(box, area=[1e5])])
    assert np.isnan(large.APs)
    assert large.APl == 1


def test_the_tables_and_the_curve():
    spots = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    guess = prediction([*spots[:2], [60, 0, 70, 10]], [0.9, 0.7, 0.8], [0, 1, 0])
    result = coco_map([guess], [target(spots, [0, 1, 0])], CLASSES)
    table = result.table()
    assert table.index.tolist() == ["all", *CLASSES]
    assert table["objects"].tolist() == [3, 2, 1, 0]
    assert result.per_class["dog"] == 1
    assert np.isnan(result.per_class["owl"])
    curve = result.curve("cat", 0.5)
    assert curve.AP == result.average_precision("cat", 0.5) == pytest.approx(51 / 101)
    rows = curve.table().set_index("recall")
    assert rows.loc[0.5].tolist() == [1.0, pytest.approx(0.9)]
    assert rows.loc[0.51, "precision"] == 0
    assert np.isnan(rows.loc[0.51, "score"])
    assert repr(result).startswith("AveragePrecision(AP=0.752")
    assert repr(curve) == "PrecisionRecall('cat', iou=0.50, AP=0.505)"


def test_the_curve_is_of_objects_of_every_size():
    for side in (10, 50, 200):
        box = [[0, 0, side, side]]
        assert coco_map([prediction(box, [0.9])], [target(box)]).curve("0").AP == 1


def test_the_curve_is_drawn_on_the_axes_given():
    from labs import plot

    box = [[0, 0, 10, 10]]
    _, ax = plot.new()
    curve = coco_map([prediction(box, [0.9])], [target(box)]).curve("0", 0.75)
    assert curve.plot(ax) is ax
    assert ax.get_xlabel() == "recall"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), curve.precision)


def test_nothing_is_printed_and_the_input_stays(capfd):
    box = [[0, 0, 10, 10]]
    guess, truth = prediction(box, [0.9]), target(box)
    before = {k: v.clone() for k, v in guess.items()}
    coco_map([guess], [truth]).table()
    assert capfd.readouterr() == ("", "")
    assert guess.keys() == before.keys()
    assert all(torch.equal(guess[k], before[k]) for k in before)


def test_gradients_and_other_dtypes_are_taken():
    box = torch.tensor([[0, 0, 10, 10]], dtype=torch.float16, requires_grad=True)
    guess = {"boxes": box, "scores": box[0, 2:3] / 10, "labels": torch.zeros(1, dtype=torch.int32)}
    assert coco_map([guess], [target([[0, 0, 10, 10]])]).AP == 1


GOOD = [[0, 0, 10, 10]]
WRONG = {
    "length": ([], [target(GOOD)], ValueError, r"got 0 predictions and 1 targets; .*\[0,4\]"),
    "xywh": (
        [prediction([[50, 50, 10, 10]], [1.0])],
        None,
        ValueError,
        r"\[0\]\['boxes'\]\[0\].*xywh",
    ),
    "nan box": ([prediction([[0, 0, np.nan, 1]], [1.0])], None, ValueError, "expected finite x1"),
    "box shape": (
        [{**prediction(GOOD, [1.0]), "boxes": torch.ones(4)}],
        None,
        ValueError,
        r"\[n,4\], got \[4\]",
    ),
    "logit": ([prediction(GOOD, [3.2])], None, ValueError, "got 3.2; apply sigmoid"),
    "nan score": ([prediction(GOOD, [np.nan])], None, ValueError, "1 that are not finite"),
    "score count": ([prediction(GOOD, [0.5, 0.5])], None, ValueError, "expected 1 finite values"),
    "float label": (
        [{**prediction(GOOD, [1.0]), "labels": torch.ones(1)}],
        None,
        TypeError,
        r"labels.long\(\)",
    ),
    "label count": ([prediction(GOOD, [1.0], [0, 1])], None, ValueError, "expected 1 labels"),
    "no name": ([prediction(GOOD, [1.0], [3])], None, ValueError, "got 3; .*__background__"),
    "swapped": ([target(GOOD)], None, KeyError, "wrong way round"),
    "near miss": (
        [{**target(GOOD), "score": torch.ones(1)}],
        None,
        KeyError,
        "did you mean 'score'",
    ),
    "not a dict": ([torch.ones(1, 4)], None, TypeError, "expected a dict of tensors, got Tensor"),
    "a list": ([{**prediction(GOOD, [1.0]), "boxes": GOOD}], None, TypeError, "torch.as_tensor"),
    "flag": (None, [target(GOOD, iscrowd=[2])], ValueError, "iscrowd.*expected 0 or 1"),
    "a hair above 1": ([prediction(GOOD, [1.0000001])], None, ValueError, r"got 1\.0000001; clamp"),
    "a hair below 0": ([prediction(GOOD, [-1e-9])], None, ValueError, r"got -1e-09; clamp"),
    "nan area": (None, [target(GOOD, area=[np.nan])], ValueError, "first at 0: nan"),
    "background": ([prediction(GOOD, [1.0], [-1])], None, ValueError, r"\[0\]: .* got -1; leave"),
    "reversed": ([prediction([[15, 5, 5, 15]], [1.0])], None, ValueError, "wrong way round"),
    "a hair reversed": (
        [{**prediction(GOOD, [1.0]), "boxes": torch.tensor([[1.0000001, 0, 1, 1]])}],
        None,
        ValueError,
        r"got \[1\.0000001, 0, 1, 1\]",
    ),
    "infinite box": ([prediction([[0, 0, np.inf, 1]], [1.0])], None, ValueError, "first_bad"),
    "complex score": (
        [{**prediction(GOOD, [1.0]), "scores": torch.ones(1, dtype=torch.complex64)}],
        None,
        TypeError,
        "expected real numbers, got torch.complex64",
    ),
    "one dict": (
        prediction(GOOD, [1.0]),
        None,
        TypeError,
        r"one dict with the keys boxes, .*\[predictions\]",
    ),
    "one tensor": (torch.ones(1, 4), None, TypeError, "per image, got Tensor"),
    "a number": (3, None, TypeError, "per image, got int"),
    "area": (None, [target(GOOD, area=[-2.0])], ValueError, "square pixels, got -2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(case):
    predictions, targets, error, message = WRONG[case]
    predictions = [prediction(GOOD, [1.0])] if predictions is None else predictions
    with pytest.raises(error, match=message):
        coco_map(predictions, targets or [target(GOOD)], CLASSES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iou_type": "box"}, "expected 'bbox' or 'segm'"),
        ({"ious": [0.7, 0.5]}, "ascending thresholds"),
        ({"ious": []}, "ascending thresholds"),
        ({"max_detections": [0]}, "at least 1"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": "a"}, "a list of different names"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        coco_map([prediction(GOOD, [1.0])], [target(GOOD)], **settings)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.full((1, 4, 4), 0.3), "masks > 0.5"),
        (torch.ones(2, 4, 4), r"\[1,H,W\], one mask per box"),
        (torch.ones(1, 5, 4), r"image 0: expected masks of one size, got \[5, 4\]"),
    ],
)
def test_wrong_masks_are_named(masks, message):
    truth = {**target(GOOD), "masks": torch.ones(1, 4, 4)}
    with pytest.raises(ValueError, match=message):
        coco_map([{**prediction(GOOD, [1.0]), "masks": masks}], [truth], iou_type="segm")


def test_what_was_not_measured_is_named():
    result = coco_map([prediction(GOOD, [1.0])], [target(GOOD)], CLASSES, ious=[0.3])
    assert result.table().columns.tolist() == ["objects", "AP", "APs", "APm", "APl", "AR"]
    for ask, message in [
        (lambda: result.AP50, "IoU 0.5 was not measured; expected one of 0.30"),
        (lambda: result.curve("cot", 0.3), "no class 'cot'; expected one of cat, dog, owl"),
        (lambda: result.average_recall(detections=5), "no detections 5; expected one of 1, 10"),
        (lambda: result.average_precision(area="tiny"), "no area 'tiny'"),
    ]:
        with pytest.raises(KeyError, match=message):
            ask()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install .cv-debugged\[metrics\]"):
        coco_map([prediction(GOOD, [1.0])], [target(GOOD)])


def test_a_generator_is_as_good_as_a_list():
    guess, truth = prediction(GOOD, [1.0]), target(GOOD)
    assert coco_map(iter([guess]), (t for t in [truth])).AP == 1


def drawn(seed):
    draw = torch.Generator().manual_seed(seed)
    images = []
    for n in (0, 4, 1, 7, 0):
        corner, side = torch.rand(2, n, 2, generator=draw)
        score = torch.randint(4, (n,), generator=draw) / 3  # with ties
        boxes = torch.cat([corner, corner + side], 1)
        images.append({"boxes": boxes, "labels": torch.arange(n) % 3, "scores": score})
    return images


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_all_images_at_once_are_what_each_is_by_itself(monkeypatch, kind):
    guesses, truths = drawn(0), drawn(1)
    guesses = [{**guess, "scores": guess["scores"].to(kind)} for guess in guesses]
    quick = detections.checked(guesses, truths)
    assert detections._at_once(guesses, truths) is not None
    monkeypatch.setattr(detections, "_at_once", lambda *images: None)
    for fast, slow in zip(quick, detections.checked(guesses, truths), strict=True):
        for one, other in zip(fast, slow, strict=True):
            for name, value in vars(one).items():
                expected = vars(other)[name]
                assert value is expected is None or torch.equal(value, expected), name
                assert value is None or value.dtype == expected.dtype, name


@pytest.mark.parametrize("case", [case for case in WRONG if WRONG[case][0] != []])
def test_nothing_wrong_passes_when_all_images_are_checked_at_once(case):
    predictions, targets, _, _ = WRONG[case]
    if case in ("one dict", "one tensor", "a number", "no name"):
        return  # seen before or after
    predictions = [prediction(GOOD, [1.0])] if predictions is None else predictions
    assert detections._at_once(predictions, targets or [target(GOOD)]) is None
