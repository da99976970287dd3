import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCDetection
from torchvision.ops import masks_to_boxes

from labs.data import RobustImageDataset, faults
from labs.data.augment import letterboxed
from labs.data.folders import VOC_CLASSES, VocFolder, coco_folder
from labs.data.scenes import collate
from labs.imagefile import BadImageError
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


def opened_voc(tmp_path, body, size="<size><width>20</width><height>20</height></size>"):
    folder = write_voc(tmp_path, [("a", (20, 20), [])])
    text = f"<annotation>{size}{body}</annotation>" if isinstance(body, str) else body
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "Annotations" / "a.xml").write_bytes(raw)
    return VocFolder(folder, "val")


DOG = voc_object("dog", (1, 1, 5, 5))
BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (voc_object("dog", ("", 1, 5, 5)), "object 1: .* finite number for <xmin>, got ''"),
        (voc_object("dog", (1, 1, "5px", 5)), "object 1: .* finite number for <xmax>, got '5px'"),
        (voc_object("dog", (1, 1, "1e999", 5)), "finite number for <xmax>, got '1e999'"),
        (voc_object("dog", (1, 1, 5, 5), "yes"), "<difficult> to be 0 or 1, got 'yes'"),
        (DOG.replace("<name>", "<name>cat</name><name>"), "expected one <name>, got 2"),
        (DOG.replace("</object>", "<bndbox/></object>"), "expected one <bndbox>, got 2"),
        (DOG.replace("<xmin>1</xmin>", ""), "expected one <xmin>, got none"),
        (DOG + "<object/>", "object 2: expected one <name>, got none"),
        (BOMB.encode(), "expected no document type, got <!DOCTYPE x>; remove it"),
        (BOMB.encode("utf-16"), "expected no document type"),
        (FILE.encode(), "expected no document type"),
        (b"", "got an empty file"),
        (b"<annotation>\xe9</annotation>", "it is not UTF-8: save it so, or let its first line"),
        (b'<?xml version="1.0" encoding="gb2312"?><annotation/>', "save the file as UTF-8"),
        (b'<?xml version="1.0" encoding="no"?><annotation/>', "unknown encoding.*as UTF-8"),
        (b"<html/>", "expected <annotation>, got <html>"),
        (b"<a>" * 100_000, "is the file complete"),
        ("<x> & </x>", "is & written as &amp;"),
    ],
)
def test_what_an_xml_file_says_is_checked(body, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.xml.*{message}"):
        opened_voc(tmp_path, body)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("<size><width>x</width><height>20</height></size>", "finite number for <width>, got 'x'"),
        ("<size><width>-1</width><height>20</height></size>", "height and width above 0"),
        ("<size><width>2.5</width><height>20</height></size>", "expected integers"),
        ("<size><width>1e9</width><height>1e9</height></size>", "100,000,000 pixels at most"),
    ],
)
def test_a_size_that_cannot_be(size, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.xml, size: .*{message}"):
        opened_voc(tmp_path, DOG, size)


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_known_is_the_pictures(size, tmp_path):
    with pytest.warns(UserWarning, match=r"1 x size taken from the picture \(a\.xml\)"):
        data = opened_voc(tmp_path, DOG, size)
    assert data[0][0].shape == (3, 20, 20)
    assert data[0][1]["boxes"].tolist() == [[0, 0, 5, 5]]


@pytest.mark.parametrize(
    "body",
    [
        f'<annotation xmlns="http://x/y">{DOG}</annotation>'.encode(),
        f'<v:annotation xmlns:v="u">{DOG}</v:annotation>'.encode(),
        f"<annotation>{DOG}</annotation>".encode("utf-8-sig"),
        f"<annotation>{DOG}</annotation>".encode("utf-16"),
        DOG.replace("</name>", "</name><part><name>head</name><bndbox/></part>"),
        DOG.replace("<difficult>0</difficult>", "<difficult/>"),
    ],
    ids=["namespace", "prefix", "mark", "utf-16", "parts", "difficult"],
)
@pytest.mark.filterwarnings("ignore:.*size taken")
def test_xml_that_leaves_no_doubt_is_read(body, tmp_path):
    assert opened_voc(tmp_path, body)[0][1]["boxes"].tolist() == [[0, 0, 5, 5]]


def test_voc_boxes_that_are_fractions(tmp_path):
    with pytest.raises(ValueError, match=r"expected boxes in pixels, .* multiply fractions"):
        opened_voc(tmp_path, voc_object("dog", (0.1, 0.2, 0.6, 0.5)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"a\na\n", "expected every name once, got 'a' 2 times"),
        (b"../a\n", r"expected the name of a file in .*got '../a\.xml'"),
        (b"/etc/a\n", "expected the name of a file in"),
        (b"\xe9\n", "expected UTF-8"),
    ],
)
def test_names_in_a_voc_list_that_cannot_be(lines, message, voc):
    (voc / "ImageSets" / "Main" / "val.txt").write_bytes(lines)
    with pytest.raises(ValueError, match=message):
        VocFolder(voc, "val")


def test_names_in_a_voc_list_may_hold_spaces_and_a_flag(tmp_path):
    folder = write_voc(tmp_path, [("my photo", (20, 20), [])])
    (folder / "ImageSets" / "Main" / "val.txt").write_text("my photo -1\n")
    assert VocFolder(folder, "val").names == ("my photo",)


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


# ------------------------------------------------------------------------------------- pictures


def test_deep_pictures_are_what_the_robust_data_set_reads(tmp_path):
    ramp = np.linspace(0, 65_535, 2400).astype(np.uint16).reshape(40, 60)
    folder = write_coco(tmp_path, [])
    path = folder / "val2017" / "000139.jpg"
    for array, format in ((ramp, "PNG"), (ramp.astype(">u2"), "TIFF"), (ramp, "TIFF")):
        Image.fromarray(array).save(path, format)
        image, _ = coco_folder(folder, "val2017", masks=False)[0]
        assert torch.equal(image, RobustImageDataset([path], labels=[0])[0].image)
        assert image.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("damage", [faults.html, faults.empty, faults.zeroed])
def test_a_picture_that_gives_no_pixels_is_named(damage, tmp_path):
    folder = write_coco(tmp_path, [])
    damage(folder / "val2017" / "000139.jpg")
    with pytest.raises(BadImageError, match=r"000139\.jpg: expected a picture, got a file that gi"):
        coco_folder(folder, "val2017", masks=False)[0]


def test_pictures_are_upright_and_labels_of_stored_ones_refused(tmp_path):
    folder, exif = write_coco(tmp_path, []), Image.Exif()
    exif[0x0112] = 6
    path = folder / "val2017" / "000139.jpg"
    Image.new("RGB", (40, 60)).save(path, exif=exif)  # lies on its side; upright it is 60 x 40
    assert coco_folder(folder, "val2017", masks=False)[0][0].shape == (3, 40, 60)
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    with pytest.raises(ValueError, match=r"000139\.jpg.*its EXIF tag turns it, .* remove the tag"):
        coco_folder(folder, "val2017", masks=False)[0]
