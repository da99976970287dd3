import pytest
import torch

from labs.boxes import overlap
from labs.criteria import YOLOv1Criterion

STRIDE, ROWS, COLUMNS, B, C = 16, 3, 4, 2, 5
HEIGHT, WIDTH = ROWS * STRIDE, COLUMNS * STRIDE


def make_case(seed):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    raw = rand(3, B * 5 + C, ROWS, COLUMNS) * 1.2 - 0.1
    targets = []
    for n in (5, 0, 9):  # with 9 objects in 12 cells some share a cell
        corners = (rand(n, 2, 2) * torch.tensor([WIDTH, HEIGHT])).sort(1).values
        labels = torch.randint(C, (n,), generator=generator)
        targets.append({"boxes": corners.flatten(1), "labels": labels})
    return raw, targets


def listed(target):
    return zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)


def slow_terms(raw, targets, coord=5.0, noobj=0.5):
    """Add up equation 3 of the paper cell by cell, box by box."""
    terms = dict.fromkeys(("centre", "size", "objectness", "no_object", "classes"), 0.0)
    for image, target in enumerate(targets):
        for row in range(ROWS):
            for column in range(COLUMNS):
                cell = raw[image, :, row, column].tolist()
                decoded = []
                for b in range(B):
                    x, y, rw, rh = cell[b * 5 : b * 5 + 4]
                    cx, cy = (column + x) * STRIDE, (row + y) * STRIDE
                    w, h = rw**2 * WIDTH, rh**2 * HEIGHT
                    decoded.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                decoded = torch.tensor(decoded, dtype=torch.float64)
                objects = []
                for box, label in zip(
                    target["boxes"].tolist(), target["labels"].tolist(), strict=True
                ):
                    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                    if (int(cx // STRIDE), int(cy // STRIDE)) == (column, row):
                        objects.append(((box[2] - box[0]) * (box[3] - box[1]), box, label))
                responsible = None
                if objects:
                    _, box, label = max(objects)
                    truth = torch.tensor(box, dtype=torch.float64)
                    ious = overlap(decoded, truth)
                    nearest = (decoded - truth).square().sum(1).argmin()
                    responsible = int(ious.argmax() if ious.max() > 0 else nearest)
                    x, y, rw, rh, confidence = cell[responsible * 5 : responsible * 5 + 5]
                    tx = (box[0] + box[2]) / 2 / STRIDE - column
                    ty = (box[1] + box[3]) / 2 / STRIDE - row
                    tw = ((box[2] - box[0]) / WIDTH) ** 0.5
                    th = ((box[3] - box[1]) / HEIGHT) ** 0.5
                    terms["centre"] += coord * ((x - tx) ** 2 + (y - ty) ** 2)
                    terms["size"] += coord * ((rw - tw) ** 2 + (rh - th) ** 2)
                    terms["objectness"] += (confidence - ious[responsible].item()) ** 2
                    for c in range(C):
                        terms["classes"] += (cell[B * 5 + c] - (c == label)) ** 2
                for b in range(B):
                    if b != responsible:
                        terms["no_object"] += noobj * cell[b * 5 + 4] ** 2
    return {name: term / len(targets) for name, term in terms.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("coord", "noobj"), [(5.0, 0.5), (2.0, 1.0)])
def test_each_term_equals_a_loop_over_cells_and_boxes(seed, coord, noobj):
    raw, targets = make_case(seed)
    terms = YOLOv1Criterion(STRIDE, B, coord, noobj)((raw,), targets)
    expected = slow_terms(raw, targets, coord, noobj)
    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], abs=1e-9), name


def test_only_the_responsible_box_and_the_confidences_get_a_gradient():
    raw = torch.full((1, B * 5 + C, ROWS, COLUMNS), 0.3, dtype=torch.float64)
    raw[:, 5:9] = 0.5  # the second box of each cell fits better
    raw.requires_grad_()
    box = torch.tensor([[18.0, 20.0, 28.0, 30.0]], dtype=torch.float64)
    terms = YOLOv1Criterion(STRIDE, B)((raw,), [{"boxes": box, "labels": torch.tensor([2])}])
    torch.stack(list(terms.values())).sum().backward()
    gradient = raw.grad[0].view(-1, ROWS * COLUMNS)
    here = 1 * COLUMNS + 1
    used = gradient[:, here].nonzero()[:, 0].tolist()
    assert used == [4, 5, 6, 7, 8, 9, *range(10, 15)] or used == [0, 1, 2, 3, 4, 9, *range(10, 15)]
    elsewhere = torch.cat([gradient[:, :here], gradient[:, here + 1 :]], 1).any(1)
    assert elsewhere.nonzero()[:, 0].tolist() == [4, 9]  # nothing but "no object"


def test_the_same_error_matters_more_in_a_small_box():
    def size_term(side):
        raw = torch.zeros(1, B * 5 + C, ROWS, COLUMNS, dtype=torch.float64)
        found = side + 2.0  # two pixels too wide
        raw[0, 2, 1, 1] = (found / WIDTH) ** 0.5
        raw[0, 3, 1, 1] = (side / HEIGHT) ** 0.5
        raw[0, 0:2, 1, 1] = 0.5
        half = side / 2
        box = torch.tensor([[24 - half, 24 - half, 24 + half, 24 + half]], dtype=torch.float64)
        target = {"boxes": box, "labels": torch.tensor([0])}
        return YOLOv1Criterion(STRIDE, B)((raw,), [target])["size"].item()

    assert size_term(4) > 5 * size_term(32)
