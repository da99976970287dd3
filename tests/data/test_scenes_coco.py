import json

import pytest
import torch

pytest.importorskip("pycocotools")
from pycocotools.coco import COCO

from labs.data.scenes import Scenes, from_coco, to_coco

KNOBS = {"things": ("digits", "photos"), "objects": (0, 6), "canvas": (64, 96), "occlusion": 0.5}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data, folder = Scenes("val", 12, seed=2, **KNOBS), tmp_path_factory.mktemp("coco")
    return data, folder, to_coco(data, folder)


def test_round_trip_is_exact(written):
    data, folder, _ = written
    back = from_coco(folder, "val")
    assert len(back) == len(data)
    assert back.classes == data.classes
    assert {len(target["labels"]) for _, target in data} >= {0, 1}
    for (image, target), (again, found) in zip(data, back, strict=True):
        assert torch.equal(image, again)
        for name in ("boxes", "labels", "masks"):
            assert found[name].dtype == target[name].dtype
            assert torch.equal(found[name], target[name])
        assert found["iscrowd"].tolist() == [False] * len(target["labels"])
    assert repr(back).startswith("CocoFolder(12 of 'val', ")


def test_pycocotools_reads_the_same(written, capsys):
    data, _, file = written
    coco = COCO(file)
    capsys.readouterr()  # COCO prints
    assert sorted(coco.getAnnIds()) == list(range(1, len(coco.getAnnIds()) + 1))
    assert sorted(coco.getImgIds()) == list(range(12))
    for index, (image, target) in enumerate(data):
        notes = coco.loadAnns(coco.getAnnIds(imgIds=[index]))
        (row,) = coco.loadImgs([index])
        assert (row["height"], row["width"]) == image.shape[1:]
        names = [cat["name"] for cat in coco.loadCats([note["category_id"] for note in notes])]
        assert names == [data.classes[label] for label in target["labels"]]
        for note, mask, box in zip(notes, target["masks"], target["boxes"], strict=True):
            assert torch.equal(torch.from_numpy(coco.annToMask(note)).bool(), mask)
            assert note["area"] == mask.sum()
            x, y, w, h = note["bbox"]
            assert [x, y, x + w, y + h] == box.tolist()


def test_splits_live_side_by_side(written):
    _, folder, _ = written
    to_coco(Scenes("test", 1, **KNOBS), folder)
    assert len(from_coco(folder, "test")) == 1
    assert len(from_coco(folder, "val")) == 12


def test_only_empty_scenes(tmp_path):
    file = to_coco(Scenes("train", 2, objects=(0, 0)), tmp_path)
    assert json.loads(file.read_text())["annotations"] == []
    _, target = from_coco(tmp_path, "train")[0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 128, 128)
    assert target["labels"].dtype == torch.int64


def test_errors(written, tmp_path):
    data, folder, _ = written
    with pytest.raises(FileExistsError, match="remove it, or write elsewhere"):
        to_coco(data, folder)
    with pytest.raises(FileNotFoundError, match="write it with to_coco"):
        from_coco(tmp_path, "val")
    with pytest.raises(ValueError, match="write scenes with frames=None"):
        to_coco(Scenes("train", 1, frames=2), tmp_path)
    assert not list(tmp_path.iterdir())


class Odd:
    """Hold a picture whose masks fill little of their boxes, and touch only their corners."""

    split, classes = "odd", ("line", "cross")

    def __len__(self):
        return 1

    def __getitem__(self, index):
        masks = torch.zeros(2, 12, 16).bool()
        masks[0, torch.arange(10), torch.arange(10)] = True
        masks[1, 2:11, 12], masks[1, 6, 11:16] = True, True
        boxes = torch.tensor([[0.0, 0, 10, 10], [11, 2, 16, 11]])
        return torch.zeros(3, 12, 16), {
            "boxes": boxes,
            "labels": torch.tensor([0, 1]),
            "masks": masks,
        }


def test_the_area_is_that_of_the_mask_not_of_the_box(tmp_path):
    """COCO's `area` decides what counts as small; a diagonal of ten pixels has 10, its box 100."""
    notes = json.loads(to_coco(Odd(), tmp_path).read_text())["annotations"]
    assert [note["area"] for note in notes] == [10, 13]
    assert [note["bbox"] for note in notes] == [[0, 0, 10, 10], [11, 2, 5, 9]]
    assert [note["iscrowd"] for note in notes] == [0, 0]
    assert from_coco(tmp_path, "odd")[0][1]["area"].tolist() == [10, 13]


def test_what_is_written_is_what_is_seen_not_what_is_hidden(written):
    data, folder, file = written
    notes, areas, hidden = json.loads(file.read_text())["annotations"], [], 0
    for _, target in data:
        areas += target["masks"].sum((1, 2)).tolist()
        hidden += int((target["visible"] < 1).sum())
    assert [note["area"] for note in notes] == areas
    assert hidden  # or the test shows nothing
    read = torch.cat([target["area"] for _, target in from_coco(folder, "val")])
    assert read.tolist() == areas
