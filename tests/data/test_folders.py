import json

import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCDetection
from torchvision.ops import masks_to_boxes

from labs.data.augment import letterboxed
from labs.data.folders import VOC_CLASSES, VocFolder, coco_folder
from labs.data.scenes import collate
from labs.metrics import coco_map

# ---------------------------------------------------------------------------------- Pascal VOC


def voc_object(name, corners, difficult=0):
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{v}</{key}>" for key, v in zip(names, corners, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def write_voc(folder, pictures, split="val"):
    """Write the layout of VOC2012: pictures is a list of (name, (h, w), objects)."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, (h, w), objects in pictures:
        Image.new("RGB", (w, h), (255, 0, 0)).save(folder / "JPEGImages" / f"{name}.jpg")
        size = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
        text = f"<annotation>{size}{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    names = "".join(f"{name}\n" for name, _, _ in pictures)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return folder


@pytest.fixture
def voc(tmp_path):
    objects = [voc_object("dog", (1, 1, 60, 40)), voc_object("person", (11, 21, 11, 21), 1)]
    pictures = [("2008_01", (40, 60), objects), ("2008_02", (50, 30), [])]
    return write_voc(tmp_path / "VOCdevkit" / "VOC2012", pictures)


def test_voc_corners_become_edges_and_difficult_ones_are_ignored(voc):
    data = VocFolder(voc, "val")
    (image, target), (_, empty) = data
    assert image.shape == (3, 40, 60)
    assert image[0].min() > 0.95
    assert image[1:].max() < 0.05
    assert target["boxes"].tolist() == [[0, 0, 60, 40], [10, 20, 11, 21]]  # all; one pixel
    assert [data.classes[label] for label in target["labels"]] == ["dog", "person"]
    assert target["ignore"].tolist() == [False, True]
    assert empty["boxes"].shape == (0, 4)
    assert repr(data).startswith("VocFolder(2 of 'val', 2 objects in ")


def test_voc_has_what_torchvision_reads(voc):
    theirs = VOCDetection(voc.parents[1], year="2012", image_set="val")
    for (_, target), (picture, tree), size in zip(
        VocFolder(voc, "val"), theirs, [(60, 40), (30, 50)], strict=True
    ):
        assert picture.size == size
        rows = tree["annotation"].get("object", [])
        assert [VOC_CLASSES[k] for k in target["labels"]] == [row["name"] for row in rows]
        assert [row["difficult"] == "1" for row in rows] == target["ignore"].tolist()


def test_difficult_objects_do_not_count_in_the_metric(voc):
    _, target = VocFolder(voc, "val")[0]
    found = {"boxes": target["boxes"][:1], "labels": target["labels"][:1]}
    assert pytest.approx(1) == coco_map([found | {"scores": torch.ones(1)}], [target]).AP


def test_voc_classes_of_ones_own_and_png(tmp_path):
    folder = write_voc(tmp_path, [("a", (20, 20), [voc_object("tree", (2, 2, 9.5, 9))])])
    (folder / "JPEGImages" / "a.jpg").unlink()
    Image.new("L", (20, 20), 51).save(folder / "JPEGImages" / "a.png")
    image, target = VocFolder(folder, "val", classes=("bush", "tree"))[0]
    assert torch.equal(image, torch.full((3, 20, 20), 0.2))
    assert target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[1, 1, 9.5, 9]]


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (voc_object("dgo", (1, 1, 5, 5)), r"a\.xml, object 1: .* got 'dgo'; did you mean 'dog'"),
        (voc_object("dog", (1, 1, 25, 5)), r"x2 in \[0, 20\].* got the box \[0.0, 0.0, 25.0, 5.0"),
        (voc_object("dog", (9, 1, 5, 5)), "expected x1 <= x2"),
        (voc_object("dog", ("nan", 1, 5, 5)), r"a\.xml, object 1: .* finite number for <xmin>"),
        ("<object><name>dog</name></object>", "expected one <bndbox>, got none"),
        ("<object>", "expected a VOC annotation, got mismatched tag"),
    ],
    ids=["class", "outside", "inside out", "nan", "no box", "damaged"],
)
def test_voc_annotations_that_are_wrong(tmp_path, thing, message):
    with pytest.raises(ValueError, match=message):
        VocFolder(write_voc(tmp_path, [("a", (20, 20), [thing])]), "val")


def test_voc_files_that_are_missing(voc):
    with pytest.raises(FileNotFoundError, match=r"splits there: val; did you mean 'val'"):
        VocFolder(voc, "vall")
    (voc / "JPEGImages" / "2008_01.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2008_01\.jpg: expected a picture, got no file"):
        VocFolder(voc, "val")[0]
    (voc / "Annotations" / "2008_02.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"2008_02\.xml, got none; take '2008_02' out"):
        VocFolder(voc, "val")


# ----------------------------------------------------------------------------------------- COCO

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
POLYGON = {
    "id": 7, "image_id": 139, "category_id": 90, "bbox": [10.0, 5.0, 20.0, 10.0], "area": 200.0,
    "iscrowd": 0, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15], [20, 5, 30, 5, 30, 15, 20, 15]],
}  # fmt: skip
# Column by column: 60 columns of 40; the first two of them are covered.
CROWD = {
    "id": 8, "image_id": 139, "category_id": 1, "bbox": [0, 0, 2, 40], "area": 80, "iscrowd": 1,
    "segmentation": {"size": [40, 60], "counts": [0, 80, 2320]},
}  # fmt: skip


def write_coco(folder, notes, **changes):
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    rows = [
        {"id": 285, "file_name": "000285.jpg", "height": 50, "width": 30},
        {"id": 139, "file_name": "000139.jpg", "height": 40, "width": 60},
    ]
    for row in rows:
        picture = Image.new("RGB", (row["width"], row["height"]), (0, 255, 0))
        picture.save(folder / "val2017" / row["file_name"])
    content = {"images": rows, "annotations": notes, "categories": CATEGORIES} | changes
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def test_coco_as_it_is_published(tmp_path):
    pytest.importorskip("pycocotools")
    data = coco_folder(write_coco(tmp_path, [POLYGON, CROWD]), "val2017")
    assert data.classes == ("person", "toothbrush")  # ids 1 and 90
    (image, target), (_, empty) = data
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [0, 0, 2, 40]]
    assert target["labels"].tolist() == [1, 0]
    assert target["iscrowd"].tolist() == [False, True]
    assert target["area"].tolist() == [200, 80]
    edges = torch.tensor([0, 0, 1, 1])
    assert torch.equal(masks_to_boxes(target["masks"]) + edges, target["boxes"])
    assert target["masks"].sum((1, 2)).tolist() == [200, 80]
    assert empty["masks"].shape == (0, 50, 30)
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64
    assert repr(data).startswith("CocoFolder(2 of 'val2017', 2 objects in ")


def test_coco_equals_torchvision(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    folder = write_coco(tmp_path, [POLYGON, CROWD])
    file = folder / "annotations" / "instances_val2017.json"
    keys = ("boxes", "labels", "masks")
    theirs = wrap_dataset_for_transforms_v2(CocoDetection(folder / "val2017", file), keys)
    capsys.readouterr()
    image, target = coco_folder(folder, "val2017")[0]
    picture, truth = theirs[0]
    assert picture.size == (60, 40)
    assert torch.equal(target["boxes"], truth["boxes"])
    assert torch.equal(target["masks"], truth["masks"].bool())
    assert [[1, 90][k] for k in target["labels"]] == truth["labels"].tolist()
    assert image.dtype == torch.float32


def test_boxes_at_the_border_are_clipped_and_those_without_area_left_out(tmp_path):
    notes = [
        POLYGON | {"bbox": [50.0, 5.0, 10.4, 10.0]},
        POLYGON | {"id": 9, "bbox": [5.0, 5.0, 0.0, 10.0]},
    ]
    folder = write_coco(tmp_path, notes)
    with pytest.warns(
        UserWarning, match=r"1 x box without area left out \(annotation 9\); `\.noti"
    ):
        data = coco_folder(folder, "val2017", masks=False)
    _, target = data[0]
    assert target["boxes"].tolist() == [[50, 5, 60, 15]]
    assert "masks" not in target
    assert data.notices == ("annotation 9: box without area left out",)


def test_pictures_of_all_sizes_make_a_batch(tmp_path):
    pytest.importorskip("pycocotools")
    data = letterboxed(coco_folder(write_coco(tmp_path, [POLYGON]), "val2017"), (64, 64))
    images, targets = collate([*data])
    assert images.shape == (2, 3, 64, 64)
    assert targets[0]["masks"].shape == (1, 64, 64)
    scale, top = 64 / 60, (64 - round(40 * 64 / 60)) // 2
    x1, y1, x2, y2 = targets[0]["boxes"][0].tolist()
    assert (x1, x2) == pytest.approx((10 * scale, 30 * scale))
    assert (y1, y2) == pytest.approx((top + 5 * 43 / 40, top + 15 * 43 / 40))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 2}, "annotation 7: expected a category id of 1 person, 90 tooth.* got 2"),
        ({"image_id": 5}, "annotation 7: expected the id of an image, got 5"),
        ({"bbox": [50, 5, 20, 10]}, r"got the box \[50, 5, 70, 15\]; is it in another format"),
        ({"bbox": [10, 5, -3, 10]}, "expected x1 <= x2"),
    ],
    ids=["category", "image", "outside", "inside out"],
)
def test_coco_annotations_that_are_wrong(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        coco_folder(write_coco(tmp_path, [POLYGON | change]), "val2017")


def test_coco_files_that_are_missing(tmp_path):
    folder = write_coco(tmp_path, [POLYGON])
    with pytest.raises(FileNotFoundError, match=r"files there: instances_val2017\.json"):
        coco_folder(folder, "val2018")
    (folder / "val2017" / "000139.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000139\.jpg: expected a picture"):
        coco_folder(folder, "val2017", masks=False)[0]


def test_coco_content_that_is_missing(tmp_path):
    pytest.importorskip("pycocotools")
    folder = write_coco(tmp_path, [POLYGON | {"segmentation": []}])
    with pytest.raises(ValueError, match="open the folder with masks=False"):
        coco_folder(folder, "val2017")[0]
    file = folder / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps({"images": [], "categories": []}))
    with pytest.raises(ValueError, match="expected annotations, categories, images, got images, c"):
        coco_folder(folder, "val2017")


def test_a_picture_of_another_size_is_refused(tmp_path):
    folder = write_coco(tmp_path, [])
    Image.new("RGB", (10, 10)).save(folder / "val2017" / "000139.jpg")
    with pytest.raises(ValueError, match=r"width \(40, 60\) as annotated, got \(10, 10\)"):
        coco_folder(folder, "val2017", masks=False)[0]
