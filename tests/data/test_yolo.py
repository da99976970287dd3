"""YOLO's text files: what they say is checked, and becomes the truth that COCO gives."""

import json

import pytest
import torch
from PIL import Image

from labs.data.folders import CocoFolder, YoloFolder, yolo_folder

CLASSES = ("cat", "dog")
ROW = "1 0.5 0.5 0.25 0.5"


def opened(tmp_path, text, masks=False, classes=CLASSES, size=(40, 30)):
    """Write one picture with this text file, in the published layout, and open it."""
    for part in ("images", "labels"):
        (tmp_path / part / "train").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 200)).save(tmp_path / "images" / "train" / "a.png")
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(raw)
    return yolo_folder(tmp_path, "train", classes, masks)


def test_a_row_is_a_box_in_pixels(tmp_path):
    data = opened(tmp_path, ROW)
    image, target = data[0]
    assert image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[15, 7.5, 25, 22.5]]
    assert target["labels"].tolist() == [1]
    assert target["area"].tolist() == [150]
    assert target["iscrowd"].tolist() == [False]
    assert data.classes == CLASSES
    assert repr(data).startswith("YoloFolder(1 of 'train', 1 objects in ")


def test_an_outline_gives_the_truth_of_coco(tmp_path):
    pytest.importorskip("pycocotools")
    data = opened(tmp_path, "0 0.05 0.1 0.3 0.1 0.3 0.5 0.05 0.5", masks=True)
    note = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120,
        "segmentation": [[2, 3, 12, 3, 12, 15, 2, 15]],
    }  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [note],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    _, ours = data[0]
    _, theirs = CocoFolder(tmp_path / "images" / "train", tmp_path / "a.json", "train")[0]
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        torch.testing.assert_close(ours[name], rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1 0.5 0.5 0.25",
            "5 numbers, class cx cy w h, or a class and three or more points, got 4",
        ),
        (ROW + " 0.9", "got 6; is the last a score"),
        ("1 .1 .1 .2 .2 .3 .3 .4", "got 8"),
        ("cat 0.5 0.5 0.25 0.5", "finite numbers between spaces, got 'cat'"),
        ("1,0.5,0.5,0.25,0.5", "finite numbers between spaces"),
        ("1 nan 0.5 0.25 0.5", "got 'nan'"),
        ("1 inf 0.5 0.25 0.5", "got 'inf'"),
        ("1 1_0 0.5 0.25 0.5", "got '1_0'"),
        ("2 0.5 0.5 0.25 0.5", "a class from 0 to 1, got 2"),
        ("-1 0.5 0.5 0.25 0.5", "a class from 0 to 1, got -1"),
        ("0.5 0.5 0.5 0.25 0.5", r"a class from 0 to 1, got 0\.5"),
        ("1 20 15 10 15", r"in \[0, 1\], got 20\.0; divide pixels"),
        ("1 0.5 0.5 -0.25 0.5", r"in \[0, 1\], got -0\.25"),
        ("1 0.9 0.5 0.5 0.5", "inside the picture, .* are these corners"),
        ("1 0 0 20 0 20 15", r"in \[0, 1\], got 20\.0"),
        (b"\xe9", "UTF-8, got the byte 0xe9"),
        (ROW.encode("utf-16"), "UTF-8, got the byte 0xff"),
    ],
)
def test_a_damaged_row_is_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.txt.*: expected .*{message}"):
        opened(tmp_path, text)


def test_a_box_has_no_mask(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt, line 2: expected an outline, .* masks=False"):
        opened(tmp_path, f"0 .1 .1 .5 .1 .5 .5\n{ROW}", masks=True)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + ROW.encode(),
        f"{ROW}\r\n".encode(),
        f"\n\n  {ROW}\t \n".encode(),
        ROW.replace(" ", "\t").encode(),
        ROW.replace("1 ", "1.0 ", 1).encode(),
    ],
    ids=["mark", "crlf", "blank lines", "tabs", "float class"],
)
def test_what_leaves_no_doubt_is_read(text, tmp_path, recwarn):
    assert opened(tmp_path, text)[0][1]["boxes"].tolist() == [[15, 7.5, 25, 22.5]]
    assert not recwarn.list


def test_a_box_that_rounding_moved_is_clipped(tmp_path):
    assert opened(tmp_path, "0 0.5 0.5 1.001 1")[0][1]["boxes"].tolist() == [[0, 0, 40, 30]]


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (f"{ROW}\n{ROW}", "a.txt, line 2: the same row again left out"),
        (f"{ROW}\n0 .5 .5 0 .5", "a.txt, line 2: box without area left out"),
        (f"{ROW}\n0 .1 .1 .2 .1 .3 .1", "a.txt, line 2: box without area left out"),
    ],
)
def test_what_is_left_out_is_counted(text, notice, tmp_path):
    with pytest.warns(UserWarning, match="1 x "):
        data = opened(tmp_path, text)
    assert data.notices == (notice,)
    assert len(data[0][1]["boxes"]) == 1


def test_an_empty_file_and_no_file_are_background(tmp_path):
    opened(tmp_path, ROW)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "c.png")
    (tmp_path / "labels" / "train" / "c.txt").write_text("")
    data = yolo_folder(tmp_path, "train", CLASSES)
    assert [len(target["boxes"]) for _, target in data] == [1, 0, 0]
    assert data[1][1]["boxes"].shape == (0, 4)
    assert data.unlabelled == (tmp_path / "images" / "train" / "b.png",)
    assert repr(data).endswith("1 without a text file)")


def test_a_text_file_without_a_picture_is_counted(tmp_path):
    opened(tmp_path, ROW)
    (tmp_path / "labels" / "train" / "z.txt").write_text(ROW)
    with pytest.warns(UserWarning, match=r"1 x text file without a picture left out \(z\.txt\)"):
        yolo_folder(tmp_path, "train", CLASSES)


def test_class_names_may_lie_beside_the_labels(tmp_path, recwarn):
    opened(tmp_path, ROW)
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    assert yolo_folder(tmp_path, "train").classes == CLASSES
    assert not recwarn.list


def test_the_other_published_layout(tmp_path):
    opened(tmp_path, ROW)
    (tmp_path / "train").mkdir()
    for part in ("images", "labels"):
        (tmp_path / part / "train").rename(tmp_path / "train" / part)
    assert len(yolo_folder(tmp_path, "train", CLASSES)) == 1


def test_folders_that_cannot_be(tmp_path):
    data = opened(tmp_path, ROW)
    with pytest.raises(FileNotFoundError, match=r"got none; did you mean 'train'"):
        yolo_folder(tmp_path, "trian", CLASSES)
    with pytest.raises(FileNotFoundError, match=r"or classes\.txt in .*data\.yaml as classes="):
        yolo_folder(tmp_path, "train")
    for classes in ("cat", [], ["cat", "cat"], [1]):
        with pytest.raises(ValueError, match="expected classes as different names"):
            yolo_folder(tmp_path, "train", classes)
    with pytest.raises(ValueError, match=r"expected pictures in .*, found none"):
        YoloFolder(data.labels, data.labels, "train", CLASSES)
    Image.new("RGB", (8, 8)).save(data.images / "a.jpg")
    with pytest.raises(ValueError, match=r"one picture for .*a\.txt, got .*a\.jpg and .*a\.png"):
        yolo_folder(tmp_path, "train", CLASSES)
    (data.images / "a.jpg").unlink()
    (data.labels / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"named like the pictures, such as a\.txt, found none"):
        yolo_folder(tmp_path, "train", CLASSES)
