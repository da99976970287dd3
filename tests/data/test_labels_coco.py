"""What a COCO file says is checked before anything is made of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from labs.data.folders import CocoFolder
from labs.data.folders.masks import _MAX_OUTLINE, to_masks

IMAGE = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
SQUARE = [2, 3, 12, 3, 12, 15, 2, 15]
NOTE = {
    "id": 5, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120, "iscrowd": 0,
    "segmentation": [SQUARE],
}  # fmt: skip
MISSING = object()


def changed(row, **changes):
    return {key: v for key, v in (row | changes).items() if v is not MISSING}


def opened(tmp_path, notes=(NOTE,), images=(IMAGE,), categories=CATEGORIES, masks=True, raw=None):
    """Write a folder of one picture of 40 x 30 pixels with its labels, and open it."""
    (tmp_path / "i").mkdir()
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "i" / "a.png")
    content = {"images": images, "annotations": notes, "categories": categories}
    text = json.dumps(content) if raw is None else raw
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CocoFolder(tmp_path / "i", file, "train", masks=masks)


def runs(counts, size=(30, 40)):
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[2, 3, None, 3, 12, 15]], "pairs of numbers, x and y, got None among them"),
        ([[2, 3, True, 3, 12, 15]], "got True among them"),
        ([[2, 3, "4", 3, 12, 15]], "got '4' among them"),
        ([[2, 3, [4], 3, 12, 15]], r"got \[4\] among them"),
        ([[2, 3, float("nan"), 3, 12, 15]], r"x in \[0, 40\], got nan"),
        ([[2, 3, 4, float("inf"), 12, 15]], r"y in \[0, 30\], got inf"),
        ([[2, 3, 2.08e8, 3, 12, 15]], r"x in \[0, 40\], got 208000000\.0; is it of another"),
        ([[2, 3, 10**400, 3, 12, 15]], r"x in \[0, 40\], got 1000+\.\.\."),
        ([[2, 3, -5, 3, 12, 15]], r"x in \[0, 40\], got -5"),
        ([SQUARE, [1, 1, 2, 50]], r"y in \[0, 30\], got 50"),
        ([[2, 3, 4, 5, 6]], "pairs of numbers, x and y, got 5 numbers"),
        ([[2, 3, 12, 15]], r"three points, .* got \[\[2, 3, 12, 15\]\]"),
        ([[]], "got 0 numbers"),
        (SQUARE, r"expected a list of polygons, .* got \[2, 3, 12, .*a list of its own"),
        ([SQUARE, None], "expected a list of polygons"),
        ([[[2, 3], [12, 3], [12, 15]]], r"got \[2, 3\] among them"),
        ([], "expected a segmentation, got none; open the folder with masks=False"),
        (None, "expected a segmentation, got none"),
        (MISSING, "expected a segmentation, got none"),
        ("polygon", "expected a segmentation, got 'polygon'"),
        ([[0, 0, 40, 30] * 40_000], "outline of 2,000,000 pixels at most, got 3,2"),
        (runs([0, 10]), "run lengths of 1,200 pixels in all, got 10; they were cut"),
        (runs([]), "1,200 pixels in all, got 0"),
        (runs([0, 1201]), r"integers from 0 to 1,200, got \[0, 1201\]"),
        (runs([600, 601]), "1,200 pixels in all, got 1,201"),
        (runs([-5, 1205]), "integers from 0 to 1,200"),
        (runs([0, 1200.0]), "integers from 0 to 1,200"),
        (runs([True, 1199]), "integers from 0 to 1,200"),
        (runs(None), "integers from 0 to 1,200, got None"),
        (runs([0, 400], (20, 20)), r"of the size \[30, 40\] of the picture, .* got \[20, 20\]"),
        (runs([0, 1200], (40, 30)), r"got \[40, 30\]"),
        (runs([0, 10**18], (10**9, 10**9)), "of the size"),
        ({"counts": [0, 1200]}, "got None; a resized"),
        (runs("zzzz"), "compressed run lengths, got 'zzzz'; 'z' cannot be"),
        (runs("0" + "`" * 30), "compressed run lengths"),
        (runs("5`"), "which ends early"),
        (runs("é"), "compressed run lengths"),
        (runs("5"), "1,200 pixels in all, got 5"),
    ],
)
def test_no_damaged_mask_is_drawn(segmentation, message, tmp_path, monkeypatch):
    monkeypatch.setattr("labs.data.folders.masks.mask_codec", pytest.fail)
    with pytest.raises(ValueError, match=rf"a\.json, annotation 5: .*{message}"):
        opened(tmp_path, [changed(NOTE, segmentation=segmentation)])


def test_masks_are_not_looked_at_when_they_are_not_wanted(tmp_path):
    data = opened(tmp_path, [changed(NOTE, segmentation=[[2, None]])], masks=False)
    assert set(data[0][1]) == {"boxes", "labels", "iscrowd", "area"}


def test_compressed_run_lengths_are_those_of_pycocotools(tmp_path):
    codec = pytest.importorskip("pycocotools.mask")
    for seed in range(20):
        random = np.random.default_rng(seed)
        mask = np.asfortranarray((random.random((30, 40)) < random.random()).astype(np.uint8))
        code = codec.encode(mask)
        note = changed(NOTE, segmentation=runs(code["counts"].decode()))
        (tmp_path / str(seed)).mkdir()
        data = opened(tmp_path / str(seed), [note])
        assert torch.equal(data[0][1]["masks"][0], torch.from_numpy(mask == 1))


def test_a_point_beside_a_polygon_is_left_out_and_counted(tmp_path):
    pytest.importorskip("pycocotools")
    note = changed(NOTE, segmentation=[SQUARE, [1, 1, 2, 2]])
    with pytest.warns(UserWarning, match="1 x polygon of fewer than three points left out"):
        data = opened(tmp_path, [note])
    assert data[0][1]["masks"].sum() == 120
    assert data.notices == ("annotation 5: polygon of fewer than three points left out",)


def test_masks_that_would_fill_the_memory_are_refused():
    with pytest.raises(ValueError, match="a: expected masks of 4,294,967,296 bytes at most, got 9"):
        to_masks([np.array([30_000 * 30_000])] * 9, (30_000, 30_000), "a")


def test_the_longest_outline_that_is_drawn_takes_little_memory():
    pytest.importorskip("pycocotools")
    zigzag = [0, 0, 1000, 1000] * (_MAX_OUTLINE // 2000)
    assert to_masks([[zigzag]], (1000, 1000), "a").shape == (1, 1000, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": MISSING}, "expected bbox, got none"),
        ({"bbox": None}, "expected bbox, got null"),
        ({"bbox": MISSING, "bbx": [1, 2, 3, 4]}, "expected bbox, got none; did you mean 'bbx'"),
        ({"bbox": []}, r"bbox to be 4 finite numbers, got \[\]"),
        ({"bbox": ["2", "3", "10", "12"]}, "bbox to be 4 finite numbers"),
        ({"bbox": [2, 3, 10]}, "bbox to be 4 finite numbers"),
        ({"bbox": {"x": 2}}, "bbox to be 4 finite numbers"),
        ({"bbox": [True, 3, 10, 12]}, "bbox to be 4 finite numbers, got .True"),
        ({"bbox": [float("nan"), 3, 10, 12]}, "bbox to be 4 finite numbers, got .nan"),
        ({"bbox": [2, 3, float("inf"), 12]}, "bbox to be 4 finite numbers"),
        ({"bbox": [2, 3, 10**400, 12]}, "bbox to be 4 finite numbers"),
        ({"bbox": [12, 3, -10, 12]}, r"x1 <= x2 in \[0, 40\].* got the box \[12, 3, 2, 15\]"),
        ({"bbox": [30, 3, 12, 12]}, r"got the box \[30, 3, 42, 15\]"),
        ({"bbox": [0.1, 0.2, 0.5, 0.4]}, "boxes in pixels, got fractions of the picture in all"),
        ({"category_id": MISSING}, "expected category_id, got none"),
        ({"category_id": 2}, "category id of 1 cat, 7 dog, got 2"),
        ({"category_id": True}, "category_id to be an integer or a text, got True"),
        ({"category_id": [1]}, "category_id to be an integer or a text"),
        ({"image_id": MISSING}, "expected image_id, got none"),
        ({"image_id": "1"}, "the id of an image, got '1'"),
        ({"image_id": 1.0}, "image_id to be an integer or a text, got 1.0"),
        ({"iscrowd": 2}, "iscrowd to be 0 or 1, got 2"),
        ({"iscrowd": "0"}, "iscrowd to be 0 or 1, got '0'"),
        ({"area": "big"}, "area to be a number from 0 on, got 'big'"),
        ({"area": -1}, "area to be a number from 0 on"),
        ({"area": float("nan")}, "area to be a number from 0 on"),
        ({"area": True}, "area to be a number from 0 on"),
    ],
)
def test_a_damaged_annotation_is_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.json, annotation 5: .*{message}"):
        opened(tmp_path, [changed(NOTE, **changes)])


def test_what_may_be_missing(tmp_path):
    note = changed(NOTE, id=MISSING, iscrowd=MISSING, area=None)
    _, target = opened(tmp_path, [note], masks=False)[0]
    assert (target["iscrowd"].tolist(), target["area"].tolist()) == ([False], [120])


def test_an_annotation_without_an_id_is_named_by_its_place(tmp_path):
    note = changed(NOTE, id=MISSING, bbox=None)
    with pytest.raises(ValueError, match=r"a\.json, annotations\[1\]: expected bbox, got null"):
        opened(tmp_path, [NOTE, note])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": MISSING}, r"images\[0\]: expected id, got none"),
        ({"id": False}, r"images\[0\]: expected id to be an integer or a text, got False"),
        ({"file_name": MISSING}, "image 1: expected file_name, got none"),
        ({"file_name": 3}, "image 1: expected file_name to be a text, got 3"),
        ({"file_name": ""}, "image 1: expected the name of a file in"),
        ({"file_name": "/etc/passwd"}, "got '/etc/passwd'; write it without a leading folder"),
        ({"file_name": "../i/a.png"}, "image 1: expected the name of a file in"),
        ({"file_name": "x/../../b.png"}, "image 1: expected the name of a file in"),
        ({"file_name": "..\\b.png"}, "image 1: expected the name of a file in"),
        ({"file_name": "C:\\b.png"}, "image 1: expected the name of a file in"),
        ({"file_name": "a\0.png"}, "image 1: expected the name of a file in"),
        ({"width": -40}, "image 1: expected height and width above 0, .* got 30 and -40"),
        ({"width": 10**9, "height": 10**9}, "of 100,000,000 pixels at most"),
        ({"width": "40"}, "image 1: expected width to be an integer, got '40'"),
        ({"width": 40.5}, "image 1: expected width to be an integer, got 40.5"),
        ({"height": True}, "image 1: expected height to be an integer, got True"),
        ({"height": False}, "image 1: expected height to be an integer, got False"),
        ({"height": [30]}, r"image 1: expected height to be an integer, got \[30\]"),
    ],
)
def test_a_damaged_image_is_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.json, .*{message}"):
        opened(tmp_path, images=[changed(IMAGE, **changes)])


@pytest.mark.parametrize("size", [{"width": MISSING, "height": None}, {"width": 0, "height": 0}])
def test_a_size_that_is_not_known_is_the_pictures(size, tmp_path):
    with pytest.warns(UserWarning, match=r"1 x size taken from the picture \(image 1\)"):
        data = opened(tmp_path, images=[changed(IMAGE, **size)], masks=False)
    assert data[0][0].shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"notes": [NOTE, changed(NOTE, category_id=7)]}, "every id of an annotation once, got 5"),
        ({"images": [IMAGE, IMAGE]}, "every id of an image once, got 1 again"),
        ({"images": [IMAGE, IMAGE | {"id": "b"}]}, "of one type, got integers and texts"),
        ({"categories": [CATEGORIES[0], {"id": 1, "name": "x"}]}, "id of a category once, got 1"),
        ({"categories": [CATEGORIES[0], {"id": 2, "name": "cat"}]}, "name of a category once, got"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: expected name, got none"),
        ({"categories": [{"id": 1, "name": 5}]}, "name to be a text, got 5"),
        ({"categories": None}, "categories to be a list, got None; take an instances file"),
        ({"notes": None}, "annotations to be a list, got None"),
        ({"notes": {"0": NOTE}}, "annotations to be a list"),
        ({"notes": [None]}, r"annotations\[0\] to be an object, got None"),
        ({"images": ["a.png"]}, r"images\[0\] to be an object, got 'a\.png'"),
        ({"raw": "{"}, "JSON, got Expecting .*; is the file complete"),
        ({"raw": ""}, "JSON, got Expecting value"),
        ({"raw": "[]"}, "an object with annotations, categories, images, got a list"),
        ({"raw": "null"}, "an object with"),
        ({"raw": "{}"}, "annotations, categories, images, got nothing"),
        ({"raw": '{"images":' + "[" * 100_000}, "JSON, got maximum recursion"),
        ({"raw": b'{"images": "\xe9"}'}, "UTF-8, got the byte 0xe9 at place 12"),
        ({"raw": "{}".encode("utf-16")}, "UTF-8, got the byte 0x"),
        ({"raw": '{"images": ' + "9" * 5000 + "}"}, "JSON, got Exceeds the limit"),
    ],
)
def test_a_damaged_file_is_named(settings, message, tmp_path):
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        opened(tmp_path, **settings)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    raw = json.dumps({"images": [IMAGE], "annotations": [], "categories": []})
    assert len(opened(tmp_path, raw=b"\xef\xbb\xbf" + raw.encode())) == 1


def test_one_box_in_the_first_pixel_is_counted_and_kept(tmp_path):
    small = changed(NOTE, id=6, bbox=[0.1, 0.2, 0.5, 0.4])
    with pytest.warns(UserWarning, match=r"inside the first pixel kept, .*\(annotation 6\)"):
        data = opened(tmp_path, [NOTE, small], masks=False)
    assert len(data[0][1]["boxes"]) == 2


def test_the_first_pixel_itself_is_a_box(tmp_path, recwarn):
    data = opened(tmp_path, [changed(NOTE, bbox=[0, 0, 1, 1])], masks=False)
    assert data[0][1]["boxes"].tolist() == [[0, 0, 1, 1]]
    assert not recwarn.list
