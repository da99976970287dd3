"""Two heads on one trunk: what each learns from, and what is counted of their answers."""

import copy
from types import SimpleNamespace

import pytest
import torch

from labs.models import YOLOv8
from labs.postprocess.yolo_v8 import decode
from labs.repro import seed_everything
from labs.studies.detection import one_to_one


@pytest.fixture
def plain():
    seed_everything(0)
    return YOLOv8(10, width=0.125, strides=(8, 16), reg_max=8, image_size=64)


@pytest.fixture
def batch():
    boxes = torch.tensor([[10.0, 12, 40, 44], [30, 20, 60, 58]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 7])}
    nobody = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return torch.rand(2, 3, 64, 64), [target, nobody]


def test_both_heads_start_alike_and_the_one_to_one_head_answers(plain, batch):
    two = one_to_one.TwoHeads(copy.deepcopy(plain)).train()
    raw = two(batch[0])
    assert len(raw) == 4
    for one, many in zip(raw[:2], raw[2:], strict=True):
        torch.testing.assert_close(one, many)
    with torch.no_grad():
        two.one.classes[0][2].bias += 1
        one, alone = two.eval()(batch[0]), two.plain.eval()(batch[0])
    assert len(one) == 2
    assert (one[0] - alone[0])[:, 32:].mean() == pytest.approx(1, abs=1e-5)


def test_the_one_to_one_loss_stops_in_front_of_the_trunk(plain, batch):
    detector = one_to_one.detector_of(plain, "both")
    terms = detector.criterion(detector.network.train()(batch[0]), batch[1])
    assert set(terms) == {f"{h} {t}" for h in ("one", "many") for t in ("class", "box", "dfl")}
    sum(value for name, value in terms.items() if name.startswith("one")).backward()
    reached = {
        n.split(".")[0] for n, p in detector.network.named_parameters() if p.grad is not None
    }
    assert reached == {"one"}


def test_each_head_has_its_own_number_of_cells(plain, batch):
    detector = one_to_one.detector_of(plain, "both")
    assert detector.criterion.one.assigner.topk == 1
    assert detector.criterion.many.assigner.topk == 10
    raw = detector.network.train()(batch[0])
    alone = one_to_one.detector_of(copy.deepcopy(plain), "one").criterion(raw[:2], batch[1])
    many = one_to_one.detector_of(copy.deepcopy(plain), "many").criterion(raw[2:], batch[1])
    terms = detector.criterion(raw, batch[1])
    assert terms["one class"] == alone["class"]
    assert terms["many class"] == many["class"]
    assert alone["class"] != many["class"]


def test_nothing_is_suppressed_before_it_is_counted(plain, batch):
    detector = one_to_one.detector_of(plain, "many")
    raw = plain.eval()(batch[0])
    found = detector.postprocess(raw)
    sure = decode(raw, 10, (8, 16), 8).classes.sigmoid() > 0.001
    assert [len(one["scores"]) for one in found] == sure.sum((1, 2)).clamp(max=300).tolist()


def found(*rows):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32)
    scores = torch.tensor([row[4] for row in rows])
    labels = torch.tensor([row[5] for row in rows])
    return {"boxes": boxes, "scores": scores, "labels": labels}


LEFT, RIGHT = (0, 0, 20, 20), (40, 40, 60, 60)
TRUTH = [{"boxes": torch.tensor([LEFT, RIGHT], dtype=torch.float32), "labels": torch.zeros(2)}]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([(*LEFT, 0.9, 0), (*RIGHT, 0.8, 0)], 1.0, id="one box each"),
        pytest.param(
            [(*LEFT, 0.9, 0), (*LEFT, 0.85, 0), (*RIGHT, 0.8, 0), (*RIGHT, 0.7, 0)],
            1.5,
            id="the double below the bar is not counted",
        ),
        pytest.param(
            [(*LEFT, 0.9, 0), (*LEFT, 0.85, 1), (*RIGHT, 0.8, 0)], 1.0, id="another class is kept"
        ),
        pytest.param([(*LEFT, 0.9, 0), (*LEFT, 0.8, 0)], 0.5, id="too few are found"),
    ],
)
def test_boxes_per_object(rows, expected):
    predictions = [found(*rows)]
    kept = [one_to_one.suppressed(one) for one in predictions]
    assert one_to_one.boxes_per_object(predictions, kept, TRUTH) == expected


def test_suppression_keeps_the_best_of_a_class():
    kept = one_to_one.suppressed(found((*LEFT, 0.7, 0), (*LEFT, 0.9, 0), (*LEFT, 0.8, 1)))
    assert kept["scores"].tolist() == pytest.approx([0.9, 0.8])


def test_suppression_gains_where_an_object_is_said_twice():
    targets = [{**TRUTH[0], "labels": torch.zeros(2, dtype=torch.int64)}]
    data = SimpleNamespace(targets=targets, classes=("thing", "other"))
    doubled = [(*LEFT, 0.9, 0), (*LEFT, 0.85, 0), (*RIGHT, 0.8, 0), (*RIGHT, 0.75, 0)]
    scores = one_to_one.judge_twice([found(*doubled)], data)
    assert scores["AP with NMS"] == 1
    assert scores["gain of NMS"] == scores["AP with NMS"] - scores["AP"] > 0.1
    once = one_to_one.judge_twice([found(*doubled[::2])], data)
    assert once["gain of NMS"] == 0
