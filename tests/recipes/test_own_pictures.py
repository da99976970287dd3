import json
import re

import pytest
import torch
from PIL import Image

from labs.data import aerial_trees
from labs.data.folders import VocFolder, YoloFolder, to_yolo, yolo_folder
from labs.recipes import own_pictures
from tests.data.trees import smooth_picture


def yolo(root, rows, classes="cat\ndog\n"):
    """Write pictures 48 wide and 32 high with these rows of labels; return the folder."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for k, text in enumerate(rows):
        smooth_picture(k).save(root / "images" / f"{k}.png")
        (root / "labels" / f"{k}.txt").write_text(text)
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def coco(root, split, names=("cat", "dog"), boxes=((0, [4, 4, 20, 10]),), seed=0):
    """Write one part with a picture for each box; categories count from 1."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, notes = [], []
    for k, (label, box) in enumerate(boxes):
        smooth_picture(seed + k).save(root / split / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "height": 32, "width": 48})
        notes.append({"id": k + 1, "image_id": k, "category_id": label + 1, "bbox": box})
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": notes, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def voc(root, names):
    """Write a picture with one object for each name, without lists of splits."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>24</xmax><ymax>14</ymax>"
    for k, name in enumerate(names):
        smooth_picture(k).save(root / "JPEGImages" / f"{k}.jpg")
        (root / "Annotations" / f"{k}.xml").write_text(
            "<annotation><size><width>48</width><height>32</height></size><object>"
            f"<name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        )


ROW = "0 0.5 0.5 0.5 0.5\n"


def test_boxes_follow_the_picture_into_the_letterbox(tmp_path):
    pictures = own_pictures(yolo(tmp_path, [ROW] * 4), 96)
    assert {name: len(part) for name, part in pictures.parts.items()} == {"train": 3, "val": 1}
    # 48x32 becomes 96x64, with 16 above and below.
    for part in pictures.parts.values():
        assert part.images.shape[1:] == (3, 96, 96)
        assert all(t["boxes"].tolist() == [[24, 32, 72, 64]] for t in part.targets)
    assert pictures.shapes.tolist() == [[48, 32]] * 3
    assert pictures.table().loc["cat"].tolist() == [3, 1]
    assert pictures.layout == "YOLO"
    assert "train: no object of dog" in pictures.notices


@pytest.mark.parametrize("layout", ["coco", "roboflow", "voc", "yolo", "split/images", "beside"])
def test_every_layout_gives_the_same_boxes_and_names(layout, tmp_path):
    rows = ["0 0.29166667 0.28125 0.41666667 0.3125\n"] * 2 + [
        "1 0.29166667 0.28125 0.41666667 0.3125"
    ]
    if layout == "coco":
        coco(tmp_path, "train", boxes=[(0, [4, 4, 20, 10])] * 2 + [(1, [4, 4, 20, 10])])
    elif layout == "roboflow":
        coco(tmp_path, "train", boxes=[(0, [4, 4, 20, 10])] * 2 + [(1, [4, 4, 20, 10])])
        file = tmp_path / "annotations" / "instances_train.json"
        file.rename(tmp_path / "train" / "_annotations.coco.json")
    elif layout == "voc":
        voc(tmp_path, ["cat", "cat", "dog"])
    elif layout == "yolo":
        yolo(tmp_path, rows)
    elif layout == "split/images":
        yolo(tmp_path / "train", rows, classes=None)
        (tmp_path / "data.yaml").write_text("nc: 2\nnames:\n  0: cat  # a comment\n  1: 'dog'\n")
    else:
        yolo(tmp_path, rows)
        for path in [*(tmp_path / "images").iterdir(), *(tmp_path / "labels").iterdir()]:
            path.rename(tmp_path / path.name)
        for name in ("images", "labels"):
            (tmp_path / name).rmdir()
    pictures = own_pictures(tmp_path, 96)
    assert pictures.classes == ("cat", "dog")
    targets = [target for part in pictures.parts.values() for target in part.targets]
    torch.testing.assert_close(
        torch.cat([t["boxes"] for t in targets]),
        torch.tensor([[8.0, 24, 48, 44]] * 3),
        atol=1e-3,
        rtol=0,
    )
    assert sorted(torch.cat([t["labels"] for t in targets]).tolist()) == [0, 0, 1]


@pytest.mark.parametrize("names", ["[cat, 'dog']", "\n- cat\n- dog", "\n  0: cat\n  1: dog\nnc: 2"])
def test_names_in_yaml_are_read_in_their_three_forms(names, tmp_path):
    yolo(tmp_path, [ROW, ROW], classes=None)
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    assert own_pictures(tmp_path).classes == ("cat", "dog")


def test_the_split_hangs_on_content_alone_and_twins_stay_together(tmp_path):
    rows = [f"0 0.5 0.5 0.{k}1 0.5\n" for k in range(1, 9)]
    first = own_pictures(yolo(tmp_path, rows), 32, share=0.4)
    inside = {path.stem for path in first.paths["val"]}
    assert len(inside) == 3
    assert {p.stem for p in own_pictures(tmp_path, 32, share=0.4, seed=1).paths["val"]} != inside
    for k in range(8):  # under other names
        (tmp_path / "images" / f"{k}.png").rename(tmp_path / "images" / f"x{9 - k}.png")
        (tmp_path / "labels" / f"{k}.txt").rename(tmp_path / "labels" / f"x{9 - k}.txt")
    again = own_pictures(tmp_path, 32, share=0.4)
    assert {f"{9 - int(path.stem[1:])}" for path in again.paths["val"]} == inside
    for path in list((tmp_path / "images").iterdir()):
        (tmp_path / "images" / f"twin{path.name}").write_bytes(path.read_bytes())
        (tmp_path / "labels" / f"twin{path.stem}.txt").write_text(ROW)
    for share in (0.2, 0.3, 0.45):
        parts = own_pictures(tmp_path, 32, share=share)
        assert not any("flatters" in line for line in parts.notices)
        assert abs(len(parts.parts["val"]) - share * 16) <= 1.5


def test_a_picture_in_two_parts_is_told(tmp_path):
    coco(tmp_path, "train")
    coco(tmp_path, "val")
    coco(tmp_path, "test", seed=5)
    pictures = own_pictures(tmp_path)
    told = [line for line in pictures.notices if "flatters" in line]
    assert told == ["val: 1 pictures are in train as well, so its score flatters"]
    assert pictures.judge == "test"


def test_small_boxes_are_told_with_a_size_to_try(tmp_path):
    yolo(tmp_path, ["0 0.5 0.5 0.05 0.9\n"] * 3)
    notes = own_pictures(tmp_path, 128).notices
    assert "train: 2 of 2 boxes are thinner than 8 px at 128x128: try --size 256" in notes[-1]
    assert not any("thinner" in line for line in own_pictures(tmp_path, 256).notices)


def broken_yolo(root):
    """Write six pictures, of which two are sound."""
    rows = [ROW, "2 0.5 0.5 0.5 0.5\n", "0 24 16 10 10\n", ROW, "0 0.9 0.5 0.5 0.5\n" + ROW, ROW]
    yolo(root, rows)
    (root / "images" / "3.png").write_bytes((root / "images" / "3.png").read_bytes()[:200])
    return root


def test_all_faults_are_named_or_their_pictures_left_out(tmp_path):
    broken_yolo(tmp_path)
    with pytest.raises(ValueError, match="4 faults") as caught:
        own_pictures(tmp_path)
    said = str(caught.value)
    for fault in (
        r"1\.txt, line 1: expected a class from 0 to 1, got 2",
        r"2\.txt, line 1: expected shares of the picture .* divide pixels",
        r"4\.txt, line 1: expected centre, .* are these corners",
        r"3\.png: expected a picture, got a file that gives no pixels",
        "mend them, or leave these pictures out with --skip-faults",
    ):
        assert re.search(fault, said), fault
    pictures = own_pictures(tmp_path, skip_faults=True)
    kept = {path.stem for paths in pictures.paths.values() for path in paths}
    assert kept == {"0", "5"}
    assert len(pictures.faults) == 4
    assert "4 faults" in repr(pictures)


def test_many_faults_are_counted(tmp_path):
    yolo(tmp_path, ["7 0.5 0.5 0.5 0.5\n"] * 12)
    with pytest.raises(ValueError, match=r"12 faults(?s:.*)and 4 more"):
        own_pictures(tmp_path)
    with pytest.raises(
        ValueError, match="expected sound pictures in every part, got none in train"
    ):
        own_pictures(tmp_path, skip_faults=True)


def test_one_damaged_object_takes_its_picture_along(tmp_path):
    boxes = [(0, [4, 4, 20, 10]), (0, [4, 4, 90, 10]), (5, [4, 4, 20, 10]), (1, [1, 1, 9, 9])]
    coco(tmp_path, "train", boxes=boxes)
    file = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] += [
        {"id": 90, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"id": 91, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5]},
    ]
    file.write_text(json.dumps(content))
    pictures = own_pictures(tmp_path, skip_faults=True)
    assert {path.name for paths in pictures.paths.values() for path in paths} == {"0.png", "3.png"}
    said = "\n".join(pictures.faults)
    assert len(pictures.faults) == 3
    assert "annotation 2: expected x1 <= x2 in [0, 48]" in said
    assert "annotation 3: expected a category id of 1 cat, 2 dog, got 6" in said
    assert "annotation 91: expected the id of an image, got 77" in said


def test_a_damaged_annotation_of_voc_is_left_out(tmp_path):
    voc(tmp_path, ["cat", "dog", "cat"])
    file = tmp_path / "Annotations" / "1.xml"
    file.write_text(file.read_text().replace("<xmax>24", "<xmax>2400"))
    with pytest.raises(ValueError, match=r"1\.xml, object 1: expected x1 <= x2 in \[0, 48\]"):
        own_pictures(tmp_path)
    left = VocFolder(tmp_path, "all", ("cat", "dog"), names=["0", "1", "2"], strict=False)
    assert (left.names, len(left), len(left.faults)) == (("0", "2"), 2, 1)
    assert [path.name for path in left.paths] == ["0.jpg", "2.jpg"]


def test_another_order_of_classes_is_refused(tmp_path):
    coco(tmp_path, "train")
    coco(tmp_path, "val", names=("dog", "cat"), seed=4)
    with pytest.raises(ValueError, match="val has the same classes in another order: dog, cat in"):
        own_pictures(tmp_path)


def test_two_files_of_names_that_disagree_are_refused(tmp_path):
    yolo(tmp_path, [ROW, ROW])
    (tmp_path / "data.yaml").write_text("names: [dog, cat]\n")
    with pytest.raises(ValueError, match=r"classes\.txt says cat, dog; .*data\.yaml says dog, cat"):
        own_pictures(tmp_path)
    assert own_pictures(tmp_path, classes=["dog", "cat"]).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"size": 100}, "--size: expected a multiple of 32, got 100", id="size"),
        pytest.param(
            {"share": 1.0}, r"--val-share: expected a share in \(0, 1\), got 1", id="share"
        ),
        pytest.param({"classes": ["cat"]}, "expected a class from 0 to 0, got 1", id="classes"),
    ],
)
def test_an_odd_choice_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        own_pictures(yolo(tmp_path, [ROW, ROW.replace("0", "1", 1)]), **options)


def test_a_folder_that_cannot_be_read_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(FileNotFoundError, match=r"got .*trees, which is none; did you mean 'tree'"):
        own_pictures(tmp_path / "trees")
    (tmp_path / "tree" / "notes.md").touch()
    with pytest.raises(ValueError, match=r"one of these layouts: COCO: .*; got notes\.md"):
        own_pictures(tmp_path / "tree")
    with pytest.raises(ValueError, match=r"expected two pictures at least, .* got 1"):
        own_pictures(yolo(tmp_path / "one", [ROW]))
    with pytest.raises(FileNotFoundError, match=r"classes\.txt in .* got none"):
        own_pictures(yolo(tmp_path / "nameless", [ROW, ROW], classes=None))
    coco(tmp_path / "odd", "left")
    coco(tmp_path / "odd", "right")
    with pytest.raises(ValueError, match="expected a part named train, got left, right"):
        own_pictures(tmp_path / "odd")
    coco(tmp_path / "one coco", "train")
    with pytest.raises(ValueError, match=r"--classes: expected the names of .*, cat dog, got dog"):
        own_pictures(tmp_path / "one coco", classes=["dog"])
    yolo(tmp_path / "gap", [ROW, ROW], classes=None)
    (tmp_path / "gap" / "data.yaml").write_text("names:\n  1: cat\n  2: dog\n")
    with pytest.raises(ValueError, match="expected `names` as a list, or numbered from 0 on"):
        own_pictures(tmp_path / "gap")


def test_trees_come_back_from_the_layout_of_yolo(tmp_path):
    trees = aerial_trees("val", 200)
    assert to_yolo(trees, tmp_path) == tmp_path
    again = yolo_folder(tmp_path, "val")
    assert again.classes == trees.classes
    for (image, target), (pixels, truth) in zip(trees, again, strict=True):
        assert torch.equal(image.mul(255).round(), pixels.mul(255).round())
        torch.testing.assert_close(target["boxes"], truth["boxes"], atol=1e-3, rtol=0)
    with pytest.raises(FileExistsError, match=r"expected no .*val, got one"):
        to_yolo(trees, tmp_path)
    (tmp_path / "classes.txt").write_text("bush\n")
    with pytest.raises(ValueError, match=r"expected .*classes\.txt to say tree, got bush"):
        to_yolo(aerial_trees("test", 200), tmp_path)


class OneWidePicture:
    split, classes = "train", ("cat", "dog")

    def __len__(self):
        return 1

    def __getitem__(self, index):
        boxes = torch.tensor([[4.0, 3, 44, 11], [50, 8, 62, 30]])
        return torch.zeros(3, 32, 64), {"boxes": boxes, "labels": torch.tensor([1, 0])}


def test_boxes_in_a_wide_picture_come_back_from_the_layout_of_yolo(tmp_path):
    to_yolo(OneWidePicture(), tmp_path)
    read = YoloFolder(tmp_path / "images" / "train", tmp_path / "labels" / "train", "train")
    ((_, expected), (_, found)) = OneWidePicture()[0], read[0]
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-4)
    assert torch.equal(found["labels"], expected["labels"])


def test_a_list_that_holds_the_validation_pictures_too_is_not_trained_on(tmp_path):
    voc(tmp_path, ["cat", "dog", "cat"])
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, rows in {"train": "0\n1\n", "val": "2\n", "trainval": "0\n1\n2\n"}.items():
        (lists / f"{name}.txt").write_text(rows)
    pictures = own_pictures(tmp_path)
    assert [path.stem for path in pictures.paths["train"]] == ["0", "1"]
    assert [path.stem for path in pictures.paths["val"]] == ["2"]


def test_a_pixel_or_a_label_changes_the_digest(tmp_path):
    before = own_pictures(yolo(tmp_path, [ROW, ROW]), 32).digest
    assert own_pictures(tmp_path, 32).digest == before
    (tmp_path / "labels" / "0.txt").write_text("1" + ROW[1:])
    relabelled = own_pictures(tmp_path, 32).digest
    image = Image.open(tmp_path / "images" / "0.png")
    image.putpixel((3, 3), (0, 0, 0))
    image.save(tmp_path / "images" / "0.png")
    assert len({before, relabelled, own_pictures(tmp_path, 32).digest}) == 3
