"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.data.augment import unletterbox
from labs.hunts.detection import check_letter_padding
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/12_open_the_neck"


def by_axis(boxes, original, size):
    factor = min(size[0] / original[0], size[1] / original[1])
    back = []
    for axis in (1, 0):  # x, then y
        scaled = max(1, round(original[axis] * factor))
        sides = boxes[:, [1 - axis, 3 - axis]] - (size[axis] - scaled) // 2
        back.append((sides * original[axis] / scaled).clamp(0, original[axis]))
    (x1, x2), (y1, y2) = (one.unbind(1) for one in back)
    return torch.stack([x1, y1, x2, y2], 1)


def clipped(boxes, original):
    h, w = original
    return torch.stack([boxes[:, i].clamp(0, (w, h)[i % 2]) for i in range(4)], 1)


def parts(original, size):
    """Return the one factor, and the exact room left and above."""
    factor = min(size[0] / original[0], size[1] / original[1])
    left, top = ((size[i] - original[i] * factor) / 2 for i in (1, 0))
    return factor, torch.tensor([left, top, left, top])


def forgets_the_padding(boxes, original, size):
    factor, _ = parts(original, size)
    return clipped(boxes / factor, original)


def subtracts_after_scaling(boxes, original, size):
    factor, room = parts(original, size)
    return clipped(boxes / factor - room, original)


def never_rounds(boxes, original, size):
    factor, room = parts(original, size)
    return clipped((boxes - room) / factor, original)


def halves_of_what_is_exact(boxes, original, size):
    factor, room = parts(original, size)
    return clipped((boxes - room.floor()) / factor, original)


def rounds_half_up(boxes, original, size):
    factor = min(size[0] / original[0], size[1] / original[1])
    h, w = (round(side * factor) for side in original)
    left, top = (size[1] - w + 1) // 2, (size[0] - h + 1) // 2
    scale = torch.tensor([original[1] / w, original[0] / h] * 2)
    return clipped((boxes - torch.tensor([left, top, left, top])) * scale, original)


def adds_half_a_pixel(boxes, original, size):
    return clipped(unletterbox(boxes, original, size) + 0.5, original)


def stretches(boxes, original, size):
    scale = torch.tensor([original[1] / size[1], original[0] / size[0]] * 2)
    return clipped(boxes * scale, original)


def never_clips(boxes, original, size):
    factor = min(size[0] / original[0], size[1] / original[1])
    h, w = (round(side * factor) for side in original)
    left, top = (size[1] - w) // 2, (size[0] - h) // 2
    scale = torch.tensor([original[1] / w, original[0] / h] * 2)
    return (boxes - torch.tensor([left, top, left, top])) * scale


def works_in_place(boxes, original, size):
    boxes.copy_(unletterbox(boxes, original, size))
    return boxes


def takes_the_larger_factor(boxes, original, size):
    factor = max(size[0] / original[0], size[1] / original[1])
    return clipped(boxes / factor, original)


def knows_only_squares(boxes, original, size):
    return unletterbox(boxes, original, (min(size), min(size)))


def never_enlarges(boxes, original, size):
    if original[0] < size[0] and original[1] < size[1]:
        room = [(size[i] - original[i]) // 2 for i in (1, 0)]
        return clipped(boxes - torch.tensor(room * 2), original)
    return unletterbox(boxes, original, size)


def pads_only_left_and_right(boxes, original, size):
    factor, room = parts(original, size)
    return clipped((boxes - room * torch.tensor([1, 0, 1, 0])) / factor, original)


exact_wide = when(lambda b, o, s: o == (60, 120) and s == (40, 40), stretches, unletterbox)
exact_tall = when(lambda b, o, s: o == (150, 50), stretches, unletterbox)

WRONG = {
    exact_wide: "✗✓✓✓✓✓✓✓",
    exact_tall: "✓✗✓✓✓✓✓✓",
    knows_only_squares: "✓✓✗✓✓✓✓✓",
    never_enlarges: "✓✓✓✗✓✓✓✓",
    rounds_half_up: "✓✓✓✓✗✓✓✓",
    halves_of_what_is_exact: "✓✓✓✓✓✗✓✓",
    never_clips: "✓✓✓✓✓✓✗✓",
    works_in_place: "✓✓✓✓✓✓✓✗",
    never_rounds: "✓✓✓✓✗✗✓✓",
    forgets_the_padding: "✗✗✗✗✗✗✗✓",
    subtracts_after_scaling: "✗✗✗✗✗✗✓✓",
    adds_half_a_pixel: "✗✗✗✗✗✗✗✓",
    stretches: "✗✗✗✗✗✗✗✓",
    takes_the_larger_factor: "✗✗✗✗✗✗✗✓",
    pads_only_left_and_right: "✗✓✗✗✗✗✗✓",
}


def test_the_planted_bug_fails():
    verdict = check_letter_padding(run_cell(LESSON, "hunt-bug")["to_picture"])
    assert marks(verdict) == "✓✓✓✓✗✗✓✓", verdict


def test_the_solution_passes():
    verdict = check_letter_padding(run_cell(LESSON, "hunt-solution")["back_to_picture"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [unletterbox, by_axis])
def test_other_right_fixes_pass(fix):
    verdict = check_letter_padding(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_letter_padding(fix)
    assert marks(verdict) == refused, verdict
