"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, nms

from labs.hunts.detection import check_class_ap
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, seen, when

LESSON = "lessons/02_detection/01_measure_boxes_and_map"
LEVELS = np.linspace(0, 1, 101)


def overlaps(predictions, targets):
    """Yield image, and IoU with its objects, of every prediction by descending score."""
    rows = [
        (score, i, box)
        for i, p in enumerate(predictions)
        for score, box in zip(p["scores"].tolist(), p["boxes"], strict=True)
    ]
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        yield image, box_iou(box[None], targets[image]["boxes"])[0].numpy()


def area(hits, objects, levels=LEVELS):
    hits = np.array(hits)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return envelope[np.searchsorted(hits.cumsum() / max(objects, 1), levels)].mean()


def count(targets):
    return sum(len(t["boxes"]) for t in targets)


def best_free(predictions, targets, bar=0.5):
    """Score right, and by COCO's rule: an object that is taken is out of the game."""
    free = [np.ones(len(t["boxes"]), bool) for t in targets]
    hits = []
    for image, overlap in overlaps(predictions, targets):
        overlap = np.where(free[image], overlap, -1)
        hits.append(bool(len(overlap)) and overlap.max() >= bar)
        if hits[-1]:
            free[image][overlap.argmax()] = False
    return area(hits, count(targets))


def with_rule(on_copy, on_ghost=False, bar_of=lambda bar: bar, total=count, levels=LEVELS):
    """Build an AP that says ``on_copy`` of a copy, ``on_ghost`` in empty images; None drops it."""

    def ap(predictions, targets, bar=0.5):
        taken, hits = set(), []
        for image, overlap in overlaps(predictions, targets):
            best = (image, int(overlap.argmax())) if len(overlap) else None
            if best is None:
                hits.append(on_ghost)
            elif overlap.max() < bar_of(bar):
                hits.append(False)
            else:
                hits.append(on_copy if best in taken else True)
                taken.add(best)
        return area([hit for hit in hits if hit is not None], total(targets), levels)

    return ap


def after_nms(predictions, targets, bar=0.5):
    kept = [nms(p["boxes"], p["scores"], bar) for p in predictions]
    thin = [{k: v[at] for k, v in p.items()} for p, at in zip(predictions, kept, strict=True)]
    return best_free(thin, targets, bar)


def without_equal_boxes(predictions, targets, bar=0.5):
    thin = []
    for p in predictions:
        first = {tuple(box): k for k, box in reversed(list(enumerate(p["boxes"].tolist())))}
        at = torch.tensor(sorted(first.values()), dtype=torch.long)
        thin.append({k: v[at] for k, v in p.items()})
    return with_rule(None)(thin, targets, bar)


def image_by_image(predictions, targets, bar=0.5):
    pairs = [(p, t) for p, t in zip(predictions, targets, strict=True) if len(t["boxes"])]
    return np.mean([best_free([p], [t], bar) for p, t in pairs])


def consuming(predictions, targets, bar=0.5):
    result = best_free(predictions, targets, bar)
    for prediction in predictions:
        prediction["scores"].mul_(0.5)
    return result


def sizes(predictions, targets):
    return [(len(p["boxes"]), len(t["boxes"])) for p, t in zip(predictions, targets, strict=True)]


def times(k):
    """Tell whether each image has ``k`` boxes for each of its objects."""
    return lambda p, t, bar: len(t) == 6 and all(n == k * m for n, m in sizes(p, t))


def ghosts(predictions, targets, bar):
    return len(targets) == 8 and any(n and not m for n, m in sizes(predictions, targets))


def low(predictions, targets, bar):
    return best_free(predictions, targets, bar) - 1e-5


def drifting(predictions, targets, bar):
    drifting.by += 3e-8 if times(2)(predictions, targets, bar) else 0
    return best_free(predictions, targets, bar) + drifting.by


drifting.by = 0.0


def noting(predictions, targets, bar):
    result = best_free(predictions, targets, bar)
    for target in targets:
        target["seen"] = torch.ones(1)
    return result


def moving_boxes(predictions, targets, bar):
    result = best_free(predictions, targets, bar)
    for target in targets:
        target["boxes"] -= 1e-3
    return result


def broken(predictions, targets, bar):
    return 1 / 0


WRONG = {
    when(times(1), low, best_free): "✗✓✓✓✓✓✓",
    when(lambda p, t, bar: len(t) == 1, low, best_free): "✓✗✓✓✓✓✓",
    when(times(5), low, best_free): "✓✓✗✓✓✓✓",
    when(times(2), low, best_free): "✓✓✓✗✓✓✓",
    when(ghosts, low, best_free): "✓✓✓✓✗✓✓",
    with_rule(False, bar_of=lambda bar: 0.5): "✓✓✓✓✓✗✓",
    when(lambda p, t, bar: bar == 0.75, low, best_free): "✓✓✓✓✓✗✓",
    when(lambda p, t, bar: len(t) == 12 and bar == 0.5, low, best_free): "✓✓✓✓✓✗✓",
    consuming: "✓✓✓✓✓✓✗",
    drifting: "✓✓✓✓✓✓✗",
    noting: "✓✓✓✓✓✓✗",
    moving_boxes: "✓✓✓✓✓✓✗",
    low: "✗✗✗✗✗✗✓",
    with_rule(True): "✓✗✗✗✓✗✓",
    lambda p, t, bar: min(1.0, with_rule(True)(p, t, bar)): "✓✗✗✗✓✗✓",
    after_nms: "✓✗✗✗✓✗✓",
    without_equal_boxes: "✓✗✗✗✓✗✓",
    image_by_image: "✓✓✗✗✗✗✓",
    with_rule(False, on_ghost=None): "✓✓✓✓✗✗✓",
    with_rule(False, levels=np.linspace(0, 1, 11)): "✓✗✗✗✓✗✓",
    with_rule(False, total=lambda t: count(t) + 1): "✗✗✗✗✗✗✓",
    lambda p, t, bar: 1.0: "✓✗✗✗✗✗✓",
    broken: "✗✗✗✗✗✗✗",
}


def test_the_planted_bug_fails():
    verdict = check_class_ap(run_cell(LESSON, "hunt-bug")["ap_of_class"])
    assert [p.passed for p in verdict.probes] == [True, False, False, False, True, False, True]


def test_the_solution_passes():
    verdict = check_class_ap(run_cell(LESSON, "hunt-solution")["ap_with_copies"])
    assert verdict, verdict


def test_the_verdict_does_not_name_the_fix():
    said = seen(check_class_ap(with_rule(None)))
    assert not any(word in said for word in ("false alarm", "taken", "append", "hits.", "else"))


@pytest.mark.parametrize(
    "ap",
    [
        pytest.param(best_free, id="the best object that is free"),
        pytest.param(with_rule(False), id="a copy is false"),
        pytest.param(
            lambda p, t, bar: torch.tensor(best_free(p, t, bar)), id="a tensor comes back"
        ),
    ],
)
def test_other_right_fixes_pass(ap):
    verdict = check_class_ap(ap)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_class_ap(fix)
    assert marks(verdict) == refused, verdict


def test_the_random_state_is_left_alone():
    state = torch.get_rng_state()
    check_class_ap(best_free)
    assert torch.equal(torch.get_rng_state(), state)
