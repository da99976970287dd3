import json
import re
import signal
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from labs.data import aerial_trees
from labs.data.folders import to_yolo
from labs.data.pictures import read_tensor
from labs.ddp_train import Settings
from labs.recipes import (
    VAL,
    carry_over,
    compact,
    held_out,
    load,
    mini_yolo_v5,
    own_pictures,
    trained,
    tune,
    worst_pictures,
    write,
)
from labs.recipes.__main__ import main
from labs.recipes.tuning import _Learnable, _Vary
from tests.ddp.held import let_go
from tests.recipes.sharing import ALONE
from tests.recipes.test_own_pictures import ROW, broken_yolo, yolo
from tests.recipes.test_recipes import known, start, step_of  # noqa: F401
from tests.recipes.tiny import tiny
from tests.waiting import HANG, until

QUICK = ["tiny", "--batch-size=2", "--ema=0"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Return a folder of the aerial trees with all three parts."""
    folder = tmp_path_factory.mktemp("trees")
    for split in ("train", "val", "test"):
        to_yolo(aerial_trees(split, 256), folder)
    return folder


def squares(root, n=12):
    """Write pictures of one bright square each, red or green by its class."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        x, y = rng.integers(0, 40, 2)
        rows.append(f"{k % 2} {(x + 12) / 64} {(y + 12) / 64} {24 / 64} {24 / 64}\n")
    yolo(root, rows, "red\ngreen\n")
    for k, row in enumerate(rows):
        _, cx, cy, _, _ = map(float, row.split())
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        x, y = round(cx * 64) - 12, round(cy * 64) - 12
        pixels[y : y + 24, x : x + 24, k % 2] = 250
        Image.fromarray(pixels).save(root / "images" / f"{k}.png")
    return root


def test_one_command_learns_trees_and_what_it_writes_finds_them(trees, tmp_path, capsys):
    out = tmp_path / "trees.safetensors"
    options = [f"--data={trees}", "--from=yolo_v8", "--size=128", "--epochs=8", "--lr=0.004"]
    main(["yolo_v8", *options, "--freeze=1", "--batch-size=5", f"--out={out}", "--ema=0"])
    said = capsys.readouterr().out
    assert "OwnPictures(YOLO, 25 train, 4 val, 4 test, 1 classes, 542 objects, 128x128" in said
    assert "from yolo_v8: 892,053 of 892,183 weights; fresh, because its 10 classes" in said
    assert re.search(r"best epoch \d+; test AP [\d.]+ AP50", said)
    assert "find things in a picture of any size" in said
    found = trained(out)
    assert found.classes == ("tree",)
    assert found.image_size == (128, 128)
    assert "--from yolo_v8" in found.recipe["command"]
    curve = [float(v) for v in re.findall(r"AP50 ([\d.e-]+) AP", said)]
    assert max(curve) > 0.05
    assert found.recipe["test"] == {"split": "test", "n": 4}
    report = tmp_path / "trees-report"
    names = {"report.txt", "curves.png", "errors.png", "worst.png"}
    assert {path.name for path in report.iterdir()} == names
    text = (report / "report.txt").read_text()
    for part in (
        "Tuned(yolo_v8",
        "localisation",
        "missed",
        "the test pictures, which chose nothing",
    ):
        assert part in text
    picture = read_tensor(trees / "images" / "test" / "000000.png")
    boxes = found.find(picture, score=0.05)["boxes"]
    assert len(boxes)
    assert boxes.max() > 128  # in pixels of the picture, which is larger than what was trained on
    assert boxes.max() <= 256


def test_a_folder_with_faults_ends_with_all_of_them_or_trains_without(tmp_path, capsys):
    broken_yolo(tmp_path / "data")
    options = [*QUICK, "--epochs=1", "--batch-size=1", f"--data={tmp_path / 'data'}"]
    with pytest.raises(SystemExit, match=r"4 faults(?s:.*)--skip-faults"):
        main(options)
    main([*options, "--skip-faults", f"--report={tmp_path / 'report'}"])
    assert capsys.readouterr().out.count("left out: ") == 4
    text = (tmp_path / "report" / "report.txt").read_text()
    assert text.count("left out: ") == 4
    assert "1 validation pictures, which also chose the epoch" in text
    assert "started from random weights" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--freeze=1"], "--freeze: expected --data FOLDER with it", id="no data"),
        pytest.param(["--from=tiny"], "--from: expected --data FOLDER with it", id="no data, from"),
        pytest.param(["--data=none"], "--data: expected a folder, got none", id="no folder"),
        pytest.param(["--data=.", "--steps=3"], "expected --epochs, got --steps", id="steps"),
        pytest.param(
            ["--data=.", "--freeze=2", "--epochs=2"], "epochs from 0 to 1, got 2", id="ice"
        ),
        pytest.param(["--data=.", "--from=yolo_v9"], "did you mean 'yolo_v8'", id="unknown start"),
        pytest.param(["--data=.", "--from=yolo_v8"], "weights of tiny, got those of y", id="other"),
        pytest.param(["--data=.", "--val-share=0"], r"share in \(0, 1\), got 0", id="share"),
    ],
)
def test_a_bad_choice_ends_with_one_sentence(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(yolo(tmp_path, [ROW] * 4))
    with pytest.raises(SystemExit, match=message):
        main([*QUICK, *options])


def settings(**changes):
    return Settings(
        **{"epochs": 2, "batch_size": 2, "lr": 2e-3, "warm_up": 0.1, "clip": 10.0} | changes
    )


def test_a_frozen_backbone_stays_to_the_last_number_and_learns_after_the_thaw(tmp_path):
    pictures, said = own_pictures(squares(tmp_path), 64), []

    def backbone(tuned):
        return tuned.detector.network.backbone.state_dict()

    path = tmp_path / "start.safetensors"
    header = {"detector": "tiny", "arguments": {"num_classes": 2}, "metrics": {}, "recipe": {}}
    write(path, compact(tiny(2).network), header | {"classes": pictures.classes})
    before = load(path).network.backbone.state_dict()
    short = settings(epochs=2, lr=1e-2)
    tuned = tune("tiny", pictures, short, ALONE, start=path, freeze=1, told=said.append)
    assert said[1:] == ["the backbone stays as it is", "the backbone learns from here on"]
    assert [score["epoch"] for score in tuned.scores] == [1, 2]
    assert tuned.steps == 2 * 5
    network = tuned.detector.network
    assert all(p.requires_grad for p in network.parameters())
    assert network.backbone.training
    # Weights that are kept from epoch 1 have the backbone of the start, those of epoch 2 do not.
    same = all(torch.equal(v, before[k]) for k, v in backbone(tuned).items())
    assert same == (tuned.best == 1)


def test_the_weights_are_those_of_the_best_epoch(tmp_path, monkeypatch):
    pictures = own_pictures(squares(tmp_path), 64)
    answers = iter([0.1, 0.7, 0.3, float("nan")])
    seen = []

    def judged(detector, data, place):
        weights = {k: v.clone() for k, v in detector.network.state_dict().items()}
        seen.append(weights)
        return dict.fromkeys(("AP", "AP50", "AP75", "AR"), next(answers, 0.5))

    monkeypatch.setattr("labs.recipes.tuning.measure", judged)
    tuned = tune("tiny", pictures, settings(epochs=4), ALONE)
    assert tuned.best == 2
    assert tuned.metrics["AP"] == 0.5
    for name, tensor in tuned.detector.network.state_dict().items():
        rounded = seen[1][name].half().float() if tensor.ndim > 1 else seen[1][name]
        assert torch.equal(tensor, rounded), name


def stopped(folder, step, options):
    """Run on until this step of the stage that has one, stop there, and return the status."""
    release = folder.with_name(f"after {step}")
    more = [f"--checkpoint={folder}", "--save-every=1", "--resume"]
    process = start(["-m", "tests.recipes.tiny"], *options, *more, HOLD=f"{step} {release}")
    until(
        lambda: step in (step_of(folder / "frozen"), step_of(folder)) or process.poll() is not None
    )
    process.send_signal(signal.SIGINT)
    let_go(release, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG)
    assert "the same command with --resume" in errors, errors
    return process.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="its signals are others")
def test_a_run_that_was_stopped_before_and_after_the_thaw_writes_the_same_file(tmp_path):
    data = squares(tmp_path / "squares")
    options = [
        f"--data={data}",
        "--size=64",
        "--epochs=3",
        "--freeze=1",
        "--batch-size=2",
        "--limit=8",
    ]
    short = ["tiny", *options, "--ema=0.9"]
    whole, again = tmp_path / "a" / "t.safetensors", tmp_path / "b" / "t.safetensors"
    for path in (whole, again):
        path.parent.mkdir()
    main([*short, f"--out={whole}"])
    folder = tmp_path / "run"
    assert stopped(folder, 2, short) == 130
    assert (step_of(folder / "frozen"), step_of(folder)) == (2, 0)
    assert stopped(folder, 6, short) == 130
    assert (step_of(folder / "frozen"), step_of(folder)) == (4, 6)
    main([*short, f"--checkpoint={folder}", "--resume", f"--out={again}"])
    assert whole.read_bytes() == again.read_bytes()
    with pytest.raises(SystemExit, match=r"was made with data=.*, size=64: use"):
        main([*short, "--size=96", f"--checkpoint={folder}", "--resume"])
    with pytest.raises(SystemExit, match="is there: pass --resume to go on"):
        main([*short, f"--checkpoint={folder}"])


def test_carried_weights_are_told_and_heads_begin_anew_where_classes_differ(tmp_path):
    pictures = own_pictures(squares(tmp_path), 64)
    path = tmp_path / "start.safetensors"

    def begin(classes):
        torch.manual_seed(1)
        source = tiny(len(classes))
        header = {"detector": "tiny", "arguments": {"num_classes": len(classes)}}
        more = {"classes": classes, "metrics": {}, "recipe": {}}
        write(path, compact(source.network), header | more)
        torch.manual_seed(2)
        detector = tiny(2)
        arguments = {"num_classes": 2}
        return detector, carry_over(detector, "tiny", arguments, pictures.classes, path), load(path)

    detector, same, source = begin(["red", "green"])
    assert same.fresh == ()
    assert same.carried == same.total
    assert "none is fresh, because the classes are the same" in repr(same)
    own = detector.network.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in source.network.state_dict().items())

    # As many classes under other names: every shape fits, and the rows would answer for others.
    for classes, why in (
        (["green", "red"], "the same classes stand in another order"),
        (["cat", "dog"], "its 2 classes are others"),
        (["a", "b", "c"], "its 3 classes are others"),
    ):
        detector, told, source = begin(classes)
        assert f"fresh, because {why}: head.classes" in repr(told)
        assert told.fresh
        assert all(name.startswith("head.classes") for name in told.fresh)
        own, theirs = detector.network.state_dict(), source.network.state_dict()
        assert all(not torch.equal(own[k], theirs[k]) for k in told.fresh if "weight" in k)
        assert all(torch.equal(own[k], theirs[k]) for k in own if k not in told.fresh)


def test_anchors_follow_the_boxes_and_are_in_the_file(tmp_path):
    sides = ["0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.6"]
    yolo(tmp_path / "data", [f"0 0.5 0.5 {side} {side}\n" for side in sides])
    out = tmp_path / "v5.safetensors"
    options = [f"--data={tmp_path / 'data'}", "--size=64", "--epochs=1", "--batch-size=2"]
    main(["yolo_v5", *options, "--augment=none", f"--out={out}"])
    detector = trained(out).detector
    anchors = torch.as_tensor(detector.criterion.anchors).float()
    assert anchors.shape == (2, 3, 2)
    assert not torch.allclose(anchors, torch.as_tensor(mini_yolo_v5(1).criterion.anchors).float())
    assert anchors.flatten(0, 1).prod(1).diff().gt(0).all()
    # 48x32 pictures become 64 wide and 43 high.
    ratio = anchors[..., 0] / anchors[..., 1]
    assert torch.allclose(ratio, torch.full((2, 3), 1.5), atol=0.15)


def test_what_is_varied_keeps_boxes_on_their_squares():
    image = torch.zeros(3, 64, 64)
    image[:, 10:30, 20:50] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 50, 30]]), "labels": torch.tensor([1])}
    vary, seen = _Vary(mirror=True), set()
    for seed in range(40):
        picture, truth = vary([(image, target)], np.random.default_rng(seed))
        assert picture.shape == (3, 64, 64)
        (x1, y1, x2, y2) = truth["boxes"][0].round().int().tolist()
        assert picture[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 0.9
        bright = (picture[0] > 0.72).nonzero()
        assert abs(int(bright[:, 1].min()) - x1) <= 1
        assert abs(int(bright[:, 0].max()) + 1 - y2) <= 1
        seen.add((x1, x2))
    assert len(seen) > 15
    still = [_Vary(mirror=False)([(image, target)], np.random.default_rng(k)) for k in range(30)]
    assert all(truth["boxes"][0, 0] < 40 for _, truth in still)


def test_an_object_that_the_window_cuts_off_for_the_most_part_is_left_out():
    corner = {"boxes": torch.tensor([[0.0, 0, 12, 12]]), "labels": torch.zeros(1).long()}
    picture, vary = torch.zeros(3, 64, 64), _Vary(mirror=False)
    varied = [vary([(picture, corner)], np.random.default_rng(k))[1]["boxes"] for k in range(300)]
    assert any(not len(boxes) for boxes in varied)  # or nothing was ever cut off
    # The smallest window makes 12 pixels 16, the largest 10; 30 % of an area is what stays.
    least = 0.3 * (12 / 1.25) ** 2
    for boxes in varied:
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        assert (width * height > 0.9 * least).all()


def test_a_crowd_is_not_learnt_from(tmp_path):
    pictures = own_pictures(squares(tmp_path), 64)
    part = pictures.parts["train"]
    part.targets[0]["iscrowd"][0] = True
    learnt = _Learnable(part, part.classes)
    assert len(learnt[0][1]["boxes"]) == 0
    assert len(learnt[1][1]["boxes"]) == 1
    assert set(learnt[0][1]) == {"boxes", "labels"}


def test_the_worst_pictures_come_first():
    box = torch.tensor([[0.0, 0, 10, 10]])
    truth = {"boxes": box, "labels": torch.tensor([0])}

    def found(boxes, score=0.9):
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        return {"boxes": boxes, "labels": labels, "scores": torch.full((len(boxes),), score)}

    answers = [found(box), found(box + 20), found(box, 0.1)]
    table = worst_pictures(answers, [truth] * 3)
    assert table.index.tolist() == [1, 2, 0]
    assert table.to_numpy().tolist() == [[1, 1], [1, 0], [0, 0]]
    passed = {**truth, "iscrowd": torch.tensor([True]), "ignore": torch.tensor([False])}
    assert worst_pictures([found(box + 20)], [passed]).to_numpy().tolist() == [[0, 1]]


def test_finding_in_a_picture_of_another_size_is_finding_in_the_letterbox():
    detector = trained("yolo_v8")
    image = held_out(VAL, 1).images[0].float() / 255
    small = detector.find(image, 0.5)
    large = torch.nn.functional.interpolate(image[None], scale_factor=2, mode="nearest")[0]
    twice = detector.find(large, 0.3)
    near = torchvision.ops.box_iou(2 * small["boxes"], twice["boxes"]).amax(1)
    assert near.min() > 0.8
    none = detector.find(image, 1.0)
    assert len(none["boxes"]) == len(none["labels"]) == 0 < len(small["boxes"])
    with pytest.raises(ValueError, match=r"expected a picture \[3,H,W\], got \[1, 3, 8, 8\]"):
        detector.find(torch.zeros(1, 3, 8, 8))


def test_the_header_is_json_with_what_a_stranger_needs(tmp_path):
    out = tmp_path / "t.safetensors"
    main([*QUICK, "--epochs=1", f"--data={squares(tmp_path / 'd')}", "--size=64", f"--out={out}"])
    content = out.read_bytes()
    told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert json.loads(told["classes"]) == ["red", "green"]
    recipe = json.loads(told["recipe"])
    assert recipe["image_size"] == 64
    assert recipe["command"].startswith("python -m labs.recipes tiny --epochs 1")
