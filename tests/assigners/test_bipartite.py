"""Every object has a box of its own; other boxes answer where they overlap enough."""

import torch

from labs.assigners import Bipartite


def square(x, side=10, y=0):
    return [x, y, x + side, y + side]


def match(objects, references, **settings):
    boxes = torch.tensor(objects, dtype=torch.float32).reshape(-1, 4)
    return Bipartite(**settings)(boxes, torch.tensor(references, dtype=torch.float32)).tolist()


def test_an_object_that_no_box_fits_has_the_best_one_all_the_same():
    assert match([square(0, side=2)], [square(0), square(40), square(50)]) == [0, -1, -1]


def test_a_box_at_the_threshold_answers_and_one_below_does_not():
    # Of the object's 10 pixels in width, 5 are the second box's: IoU 5/15; of the third 20/30.
    references = [square(0), square(5), [0, 0, 15, 10]]
    assert match([square(0)], references, threshold=1 / 3) == [0, 0, 0]
    assert match([square(0)], references, threshold=0.34) == [0, -1, 0]


def test_two_objects_with_one_best_box_share_out_the_two_best():
    # Both overlap the first box most; the second object fits it better and takes it.
    objects = [[0, 0, 10, 6], square(0, side=9)]
    references = [square(0), square(6)]
    assert match(objects, references, threshold=0.99) == [1, 0]


def test_of_two_objects_over_the_threshold_a_box_answers_for_the_nearer():
    assert match([square(0), square(2)], [square(0), square(2), square(1.2)]) == [0, 1, 1]


def test_an_own_box_is_kept_where_another_object_overlaps_it_more():
    # The small object's only box is the large one's second best: it overlaps the large one more.
    objects = [square(0), [0, 0, 2, 2]]
    references = [square(0), [0, 0, 10, 8]]
    assert match(objects, references) == [0, 1]


def test_without_objects_and_without_area_nothing_is_found():
    assert match([], [square(0), square(5)]) == [-1, -1]
    assert match([[3, 3, 3, 3]], [square(0), square(5)]) == [-1, -1]


def test_more_objects_than_boxes_leave_some_without():
    assert match([square(0), square(1), square(2)], [square(0)]) == [0]
