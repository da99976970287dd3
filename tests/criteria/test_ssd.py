"""The terms of SSD by hand, the background that counts, and batches without objects."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from labs.assigners import Bipartite
from labs.boxes import Deltas, Estimates
from labs.criteria import SSDCriterion, hardest

REFERENCES = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10], [60, 0, 70, 10]])
CLASSES = 2


def said(deltas=0.0, logits=None, batch=1):
    """Return estimates at four references; without logits all classes are equally likely."""
    logits = torch.zeros(batch, 4, CLASSES + 1) if logits is None else logits
    return Estimates(torch.full((batch, 4, 4), deltas), logits, REFERENCES, (20, 80))


def one_object(box=(0.0, 0, 10, 10), label=1):
    return [{"boxes": torch.tensor([box]), "labels": torch.tensor([label])}]


NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


def test_the_terms_of_one_object_by_hand():
    box = (1.0, 0, 11, 10)  # a tenth of the reference to the right: 10 * .1 = 1 as a correction
    terms = SSDCriterion(CLASSES)(said(deltas=0.5), one_object(box))
    # Smooth L1 of x: .5 * .5**2; of the others .5 each, the same.
    assert terms["box"].item() == pytest.approx(4 * 0.125, rel=1e-6)
    # One box answers, three of the background count: four times the entropy of three classes.
    assert terms["class"].item() == pytest.approx(4 * math.log(3), rel=1e-6)


def test_only_the_hardest_of_the_background_counts():
    logits = torch.zeros(1, 4, CLASSES + 1)
    logits[0, 1, 0], logits[0, 2, 2], logits[0, 3, 0] = 5.0, 5.0, 4.0
    entropies = cross_entropy(logits[0], torch.tensor([2, 0, 0, 0]), reduction="none")
    for ratio, counted in ((0, [0]), (1, [0, 2]), (2, [0, 2, 3]), (3, [0, 1, 2, 3])):
        terms = SSDCriterion(CLASSES, ratio=ratio)(said(logits=logits), one_object())
        assert terms["class"].item() == pytest.approx(entropies[counted].sum().item(), rel=1e-6)


def test_the_hardest_are_chosen_in_each_image_for_itself():
    loss = torch.tensor([[9.0, 1, 2, 3], [9, 8, 7, 6], [1, 2, 3, 4]])
    positive = torch.tensor([[True, False, False, False], [True, True, False, False], [False] * 4])
    found = hardest(loss, positive, ratio=1)
    assert found.tolist() == [[False] * 3 + [True], [False, False, True, True], [False] * 4]
    assert hardest(loss, positive, 1, least=2)[2].tolist() == [False, False, True, True]


def test_both_terms_are_divided_by_the_boxes_that_answer():
    twice = {"boxes": REFERENCES[[0, 2]], "labels": torch.tensor([0, 1])}
    one, two = one_object(), [twice]
    half, whole = (SSDCriterion(CLASSES)(said(0.5), t)["box"].item() for t in (one, two))
    assert half == pytest.approx(whole)  # twice the sum, twice the boxes
    batch = SSDCriterion(CLASSES)(said(0.5, batch=2), [*one, NOTHING])
    assert batch["box"].item() == pytest.approx(half)


def test_an_empty_batch_teaches_nothing_and_does_not_break():
    logits = torch.randn(2, 4, 3, requires_grad=True)
    terms = SSDCriterion(CLASSES)(said(logits=logits, batch=2), [NOTHING, NOTHING])
    sum(terms.values()).backward()
    assert [term.item() for term in terms.values()] == [0, 0]
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_background_of_an_empty_image_teaches_if_asked_to():
    logits = torch.zeros(1, 4, 3, requires_grad=True)
    terms = SSDCriterion(CLASSES, least=3)(said(logits=logits), [NOTHING])
    terms["class"].backward()
    assert int((logits.grad.abs().sum(-1) > 0).sum()) == 3
    assert (logits.grad[0, :3, 0] < 0).all()  # towards the background


def test_what_is_sure_and_right_costs_nothing():
    deltas = Deltas((10.0, 10.0, 5.0, 5.0))
    true = torch.tensor([[1.0, 1, 12, 9]])
    raw = said()
    raw.deltas[0, :1] = deltas.encode(true, REFERENCES[:1])
    raw.logits[0, 0, 2], raw.logits[0, 1:, 0] = 30.0, 30.0
    terms = SSDCriterion(CLASSES)(raw, [{"boxes": true, "labels": torch.tensor([1])}])
    assert terms["box"].item() == pytest.approx(0, abs=1e-9)
    assert terms["class"].item() == pytest.approx(0, abs=1e-9)


def test_the_matcher_decides():
    box = (3.0, 0, 13, 10)  # IoU with the first reference 7/13
    found = [
        SSDCriterion(CLASSES, matcher=Bipartite(limit))(said(), one_object(box))["class"].item()
        for limit in (0.5, 0.6)
    ]
    assert found[0] == found[1]  # its own box it has at any threshold


def test_half_precision_is_widened():
    raw = said(0.5)
    half = raw._replace(deltas=raw.deltas.bfloat16(), logits=raw.logits.bfloat16())
    terms = SSDCriterion(CLASSES)(half, one_object())
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match=r"expected 7 \+ 1 logits of each box.*got 3"):
        SSDCriterion(7)(said(), one_object())
    with pytest.raises(ValueError, match="estimates of 1 images and 2 targets"):
        SSDCriterion(CLASSES)(said(), [NOTHING, NOTHING])
    with pytest.raises(ValueError, match="below 2, the number of classes, got 2"):
        SSDCriterion(CLASSES)(said(), one_object(label=2))
    with pytest.raises(ValueError, match="touch the image of 80x20 pixels"):
        SSDCriterion(CLASSES)(said(), one_object(box=(90.0, 0, 95, 5)))
