"""Ask of each fault one question that a sound library answers with yes, and a faulty one with no.

Started as a program, it plants each fault in a child of its own, and prints what came of it.
"""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from labs import (
    ablation,
    assigners,
    boxes,
    criteria,
    data,
    ddp,
    evaluate,
    export,
    hooks,
    metrics,
    numerics,
    recipes,
)
from labs.ablation.study import Study
from labs.data import augment
from labs.data.scenes import Scenes
from labs.ddp.parity import GradientParity, ParameterParity
from labs.models import RoIEstimates, RoIFeatures, blocks, cascade_rcnn, resnet, yolo_v3
from labs.train import fit
from tools.faults import FAULTS, plant


def learning_off():
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    kinds = [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS]
    moved = []
    for kind in kinds:
        net.weight.data.copy_(before)
        optimizer = kind(net.parameters(), lr=0.1)
        if kind is torch.optim.LBFGS:
            optimizer.step(lambda: loss_of(net))
        else:
            fit(net, [(torch.ones(4, 2), torch.arange(4) % 2)], optimizer)
        moved.append(not torch.equal(net.weight, before))
    return all_or_none(moved)


def loss_of(net):
    net.zero_grad()
    loss = net(torch.ones(1, 2)).square().sum()
    loss.backward()
    return loss


def truths(split):
    """Return what training on digits, flowers and scenes would learn from, as lists."""
    scenes = Scenes(split, 2, canvas=(64, 64), objects=(1, 2))
    return [
        data.digits(split, 50).labels.tolist(),
        data.flowers(split, 16, 16).labels.tolist(),
        data.flowers_with_masks(split, 16, 16).data.labels.tolist(),
        scenes[0][1]["boxes"].tolist(),
    ]


TRUTHS = {split: truths(split) for split in ("train", "test")}


def labels_shuffled():
    assert truths("test") == TRUTHS["test"]
    return all_or_none(a == b for a, b in zip(truths("train"), TRUTHS["train"], strict=True))


def augmentation_off():
    scenes = Scenes("train", 4, canvas=(64, 64), objects=(1, 2))
    changed = augment.Augmented(scenes, lambda examples, rng: (examples[0][0] * 0, examples[0][1]))
    four = augment.mosaic([scenes[k] for k in range(4)], np.random.default_rng(0), size=(64, 64))
    return all_or_none(
        [not torch.equal(picture, scenes[0][0]) for picture in (changed[0][0], four[0])]
    )


def clipping_ignored():
    net = nn.Linear(2, 2)
    norms = []
    for by in (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_):
        net.zero_grad()
        (net(torch.ones(1, 2)) * 100).sum().backward()
        by(net.parameters(), 0.1)
        norms.append(net.weight.grad.abs().max() <= 0.1)
    for edit in (hooks.clip_norm(0.1), hooks.clip_value(0.1)):
        net.zero_grad()
        with hooks.edit_gradients(net, {"": edit}):
            (net(torch.ones(1, 2)) * 100).sum().backward()
        norms.append(net.weight.grad.abs().max() <= 0.1)
    return all_or_none(norms)


def moving_average_off():
    from labs.ddp_train import state

    new, past = [torch.ones(2)], [torch.zeros(2)]
    averaged = [past[0].clone(), past[0].clone()]
    torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)([averaged[0]], new, 1)
    state._warming_average(0.9)([averaged[1]], new, 100)
    return all_or_none([not torch.equal(mine, new[0]) for mine in averaged])


def tested_in_train_mode():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    evaluate.predict(net, torch.rand(8, 1, 2, 2))
    return bool(net[1].num_batches_tracked == 0)


def weights_not_loaded():
    first, second = (recipes.load(name) for name in [next(iter(recipes.SHIPPED))] * 2)
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def shortcut_off():
    cases = [
        (resnet.BasicBlock(4, 4), lambda b: b.bn2),
        (resnet.Bottleneck(16, 4), lambda b: b.bn3),
        (blocks.Bottleneck(4, 4), lambda b: b.second.bn),
        (yolo_v3.Residual(4, 2), lambda b: b.expand.bn),
    ]
    kept = []
    for block, last in cases:
        nn.init.zeros_(last(block).weight)  # the branch is 0, so what comes out came past it
        x = torch.rand(2, 16 if isinstance(block, resnet.Bottleneck) else 4, 4, 4)
        kept.append(torch.equal(block(x), x))
    return all_or_none(kept)


def overlap_without_penalty():
    apart = torch.tensor([0.0, 0, 1, 1]), torch.tensor([8.0, 8, 9, 11])
    return all_or_none([bool(boxes.overlap(*apart, kind) < 0) for kind in ("giou", "diou", "ciou")])


def suppression_off():
    twice = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9]]])
    (found,) = boxes.suppress(twice, torch.tensor([[[0.9], [0.8]]]), iou_threshold=0.5)
    return len(found["boxes"]) == 1


def ten_cells_always():
    points = boxes.grid.cell_centres(8, 8, torch.zeros(1)).view(-1, 2) * 8
    found = assigners.TaskAligned(topk=1)(
        torch.full((1, 64, 1), 0.5),
        torch.cat([points - 16, points + 16], 1)[None],
        points,
        torch.tensor([[[8.0, 8, 56, 56]]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
    )
    return int((found.objects >= 0).sum()) == 1


def regions_rounded():
    ramp = (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16)
    region = torch.tensor([[0.0, 1.3, 1, 7.3, 7]])
    found = RoIFeatures((1,), size=1)([ramp], region).item()
    return abs(found - 4.3) < 1e-4


def regions_stay():
    said = RoIEstimates(torch.ones(1, 1, 4), torch.zeros(1, 2), torch.tensor([[0.0, 2, 2, 6, 6]]))
    return not torch.equal(cascade_rcnn.corrected(said, boxes.Deltas(), (9, 9)), said.rois)


def anchors_equal():
    shapes = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 50 + 4
    first = boxes.k_means(shapes, 3)
    fitted = [
        first,
        boxes.evolve(shapes, torch.tensor([[5.0, 5], [20, 20], [50, 50]]), generations=2),
    ]
    return all_or_none([len(found.unique(dim=0)) == 3 for found in fitted])


def random_cells():
    box, image = torch.tensor([[8.0, 8, 24, 24]]), torch.zeros(1, dtype=torch.int64)
    truths = assigners.Truths(boxes=box, labels=image, image=image)
    anchors = (((16, 16),),)
    found = assigners.GridCell(8)(torch.zeros(1, 32, 32, 1, 4), box, image)
    by_grid = [found.row.tolist(), found.column.tolist()]
    found = assigners.BestAnchor(anchors, (8,))(box, image, [(32, 32)])
    by_anchor = [found.row.tolist(), found.column.tolist()]
    found = assigners.MultiAnchor(anchors, (8,), neighbours=False)(
        [torch.zeros(1, 1, 32, 32)], truths
    )
    by_maps = [found.row.tolist(), found.column.tolist()]
    points = boxes.cell_centres(32, 32, torch.zeros(1)).view(-1, 2) * 8
    around = torch.cat([points - 8, points + 8], 1)[None]
    scores = torch.full((1, 1024, 1), 0.5)
    given = box[None], torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    found = assigners.TaskAligned(topk=4)(scores, around, points, *given)
    mine = points[found.objects[0] >= 0]
    by_points = bool(len(mine) and ((mine > 8) & (mine < 24)).all())
    found = assigners.Bipartite()(box, torch.cat([points - 8, points + 8], 1))
    mine = points[found >= 0]
    by_references = bool(len(mine) and ((mine > 8) & (mine < 24)).all())
    by_cell = [one == [[2], [2]] for one in (by_grid, by_anchor, by_maps)]
    return all_or_none([*by_cell, by_points, by_references])


def mining_off():
    loss, positive = torch.tensor([[3.0, 1, 2, 4]]), torch.tensor([[True, False, False, False]])
    return criteria.ssd.hardest(loss, positive, 1.0).tolist() == [[False, False, False, True]]


def distribution_loss_off():
    logits = torch.zeros(1, 4, requires_grad=True)
    loss = boxes.distribution_focal_loss(logits, torch.tensor([1.5])).sum()
    loss.backward()
    return all_or_none([bool(loss > 0), bool(logits.grad.abs().sum() > 0)])


def health_of_weights():
    net = nn.Linear(2, 2)
    net(torch.zeros(1, 2)).sum().backward()
    before = net.weight.grad
    dead = hooks.gradient_health(net).dead
    assert net.weight.grad is before
    return dead == ("weight",)


def capture_of_inputs():
    net = nn.Sequential(nn.Linear(2, 3))
    with hooks.capture(net, "0") as maps:
        net(torch.zeros(1, 2))
    return maps["0"].shape == (1, 3)


def heat_everywhere():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    heat = hooks.grad_cam(net, images, "0", lambda out: out[:, 0])
    return len(heat.unique()) > 1 or bool((heat == 0).all())


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def nobody_to_blame():
    return hooks.first_bad(nn.Sequential(Log()), torch.tensor([-1.0])) is not None


def stress_passes():
    report = numerics.stress(lambda logits, targets: logits.exp().sum().log(), "logits")
    return not report.ok


def scan_passes():
    with TemporaryDirectory() as folder:
        Path(folder, "a.jpg").write_bytes(b"no picture")
        return len(data.scan_images(folder, workers=0).bad) == 1


def duplicates_ignored():
    box = torch.tensor([[0.0, 0, 9, 9]])
    other = torch.tensor([[20.0, 20, 29, 29]])
    truth = {"boxes": torch.cat([box, other]), "labels": torch.zeros(2, dtype=torch.int64)}
    found = {
        "boxes": torch.cat([box, box, other]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.zeros(3, dtype=torch.int64),
    }
    return metrics.coco_map([found], [truth]).AP < 1


def drawn(width):
    return torch.rand(1)


def seeds_ignored():
    study = ablation.ablate(drawn, {"width": 1}, "width", [1, 2], seeds=range(2), progress=False)
    scores = study.frame()["score"]
    assert [run.seed for run in study.runs] == [0, 1, 0, 1]
    return scores[0] != scores[1]


def every_difference_counts():
    runs = [
        ablation.Run(value, seed, {"score": value * 1e-6 + seed})
        for value in (1, 2)
        for seed in (0, 1)
    ]
    return "not told apart" in Study("width", (1, 2), 1, tuple(runs)).verdict()


def exported(folder):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64)).eval()
    path = export.to_onnx(net, torch.rand(1, 1, 8, 8), Path(folder, "net.onnx"))
    return net, path


def quantization_off():
    with TemporaryDirectory() as folder:
        _, path = exported(folder)
        small = export.quantize(path, Path(folder, "small.onnx"), None)
        return small.stat().st_size < path.stat().st_size


def parity_passes():
    rows = GradientParity((ParameterParity("w", (1,), 0.5, 1.0),), 2, ())
    with TemporaryDirectory() as folder:
        net, path = exported(folder)
        nn.init.zeros_(net[1].weight)
        try:
            refused = not export.parity(net, path, [torch.rand(1, 1, 8, 8)]).ok
        except export.ParityError:
            refused = True
    return all_or_none([refused, rows.max_abs_diff == 0.5])


def shards_whole():
    return len(ddp.shard(10, 0, 2)) == 5


def all_or_none(answers):
    """Return the one answer to several questions; that to some of them is none."""
    found = [bool(answer) for answer in answers]
    assert len(set(found)) == 1, found
    return found[0]


def answer(name, planted):
    """Answer the question about a fault in a child, so that nothing of the fault is left."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.manual_seed(0)
            if planted:
                plant(name)
            said = bool(globals()[name.replace(" ", "_")]())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = json.loads(pipe.read())
    os.waitpid(child, 0)
    return said


if __name__ == "__main__":
    names = sys.argv[1:] or [fault.name for fault in FAULTS]
    print(
        json.dumps({name: [answer(name, planted) for planted in (False, True)] for name in names})
    )
