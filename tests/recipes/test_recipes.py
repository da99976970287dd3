import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import labs.recipes
from labs.data.shipped import FOLDER, read_asset
from labs.ddp import gradient_parity, launch
from labs.recipes import (
    DETECTORS,
    SHIPPED,
    TEST,
    compact,
    detection_task,
    held_out,
    load,
    measure,
    mini_cascade_rcnn,
    read,
    trained,
    write,
)
from labs.recipes.__main__ import main
from tests.ddp.held import let_go
from tests.recipes import sharing
from tests.recipes.sharing import ALONE
from tests.recipes.tiny import tiny
from tests.waiting import HANG, until

ROOT = Path(__file__).parents[2]
SHORT = ["tiny", "--epochs=2", "--scenes=24", "--batch-size=4", "--limit=24", "--ema=0.9", "--amp"]


@contextmanager
def tiny_known():
    """Add the tiny detector to the table, and compute as a process with one thread does."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS, "tiny", tiny)
        patch.setenv("LABS_DEVICE", "cpu")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def known():
    with tiny_known():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the file that a run wrote which nothing disturbed."""
    path = tmp_path_factory.mktemp("finished") / "tiny.safetensors"
    with tiny_known():
        main([*SHORT, f"--out={path}"])
    return path


def start(program, *options, **others):
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LABS_DEVICE": "cpu", **others}
    return subprocess.Popen(
        [sys.executable, *program, *options],
        env=os.environ | env | {"GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def step_of(folder):
    file = folder / "checkpoint.pt"
    return torch.load(file, weights_only=True)["step"] if file.exists() else 0


def interrupted(number, after, held, folder, *options):
    """Send a signal after ``after`` steps, at the latest when the run is held; return its end."""
    options = (*SHORT, f"--checkpoint={folder}", "--save-every=1", *options)
    release = folder.with_name(f"after {held}")
    process = start(["-m", "tests.recipes.tiny"], *options, HOLD=f"{held} {release}")
    until(lambda: step_of(folder) >= after or process.poll() is not None)
    process.send_signal(number)
    let_go(release, number)
    _, errors = process.communicate(timeout=HANG)
    return process.returncode, errors


@pytest.mark.skipif(sys.platform == "win32", reason="its signals are others")
def test_a_run_that_was_killed_and_then_stopped_writes_the_same_file(finished, tmp_path):
    folder, path = tmp_path / "run", tmp_path / "tiny.safetensors"
    assert interrupted(signal.SIGKILL, 2, 6, folder)[0] == -signal.SIGKILL
    killed_at = step_of(folder)
    assert 2 <= killed_at <= 6
    here = killed_at + 1
    status, errors = interrupted(signal.SIGINT, here, here, folder, "--resume")
    assert status == 130, errors
    assert f"kept in {folder}: the same command with --resume" in errors
    assert "Traceback" not in errors
    assert step_of(folder) == here
    main([*SHORT, f"--checkpoint={folder}", "--resume", f"--out={path}"])
    assert path.read_bytes() == finished.read_bytes()


def test_the_header_tells_how_the_weights_were_made(finished):
    with safe_open(finished, "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items()}
        assert file.get_tensor("backbone.stem.conv.weight").dtype == torch.float16
    assert header["detector"] == "tiny"
    assert header["arguments"] == {"num_classes": 10}
    assert header["classes"] == list("0123456789")
    assert set(header["metrics"]) == {"AP", "AP50", "AP75", "AR"}
    recipe = header["recipe"]
    assert recipe["command"] == (
        "python -m labs.recipes tiny --epochs 2 --batch-size 4 --limit 24 --ema 0.9 --amp "
        "--scenes 24 --out tiny.safetensors"
    )
    assert (recipe["seed"], recipe["steps"], recipe["processes"]) == (0, 12, 1)
    assert recipe["versions"]["torch"] == torch.__version__
    assert recipe["test"] == {"split": "test", "n": 24, "seed": 0}


def test_what_is_loaded_reaches_what_the_file_says(finished):
    found = trained(finished)
    assert measure(found.detector, held_out(found.recipe["test"]), ALONE) == found.metrics
    assert found.table()["metric"].tolist() == ["AP", "AP50", "AP75", "AR"]
    assert re.match(r"Trained\(tiny, [\d,]+ parameters, 10 classes, AP=0\.\d+", repr(found))
    network = load(str(finished)).network
    assert all(p.dtype == torch.float32 for p in network.parameters())
    weight = network.backbone.stem.conv.weight
    assert torch.equal(weight, weight.half().float())


def header(**changes):
    plain = {"detector": "tiny", "arguments": {"num_classes": 10}, "classes": list("0123456789")}
    return plain | {"metrics": {}, "recipe": {"command": "none"}} | changes


def test_writing_twice_gives_the_same_bytes_and_small_numbers_survive(tmp_path):
    network = tiny(10).network
    network.backbone.stem.bn.running_var.fill_(1e-9)  # 0 in half precision
    for name in "ab":
        write(tmp_path / name, compact(network), header())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    weights, told = read((tmp_path / "a").read_bytes(), "a")
    assert told == header()
    assert weights["backbone.stem.bn.running_var"].eq(1e-9).all()


def test_a_file_that_is_something_else_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "x.safetensors"

    def refused(message):
        with pytest.raises(ValueError, match=message):
            trained(path)

    save_file({"a": torch.zeros(1)}, path)
    refused("expected a header with detector, .* got none of detector, arguments")
    for content in (b"PK\x03\x04 a zip, perhaps of pickles", b""):
        path.write_bytes(content)
        refused("x.safetensors: expected a safetensors file, got")
    weights = compact(tiny(10).network)
    write(path, weights, header(detector="tinny"))
    refused("expected a detector of .*tiny, got 'tinny'; did you mean 'tiny'")
    write(path, weights, header(arguments={"num_classes": 3}))
    refused(r"architecture, got head\.\S+ \[10.*in place of \[3.* in all do not fit\); .* train it")
    write(path, weights, header(arguments={"num_class": 10}))
    refused(r"arguments of 'tiny', got {'num_class': 10}")
    rest = {name: tensor for name, tensor in weights.items() if "stem" not in name}
    write(path, rest | {"other": torch.zeros(1)}, header())
    refused("got no backbone.stem.conv.weight")


def test_an_unknown_name_is_answered_with_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.setitem(SHIPPED, "yolo_v8", "0" * 64)
    with pytest.raises(ValueError, match="got 'yolo_v9'; did you mean 'yolo_v8'"):
        load("yolo_v9")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["yolov8"], "did you mean 'yolo_v8'", id="unknown detector"),
        pytest.param(["tiny", "--out=x.pt"], "expected FOLDER/NAME.safetensors", id="out"),
        pytest.param(["tiny", "--out=no/x.safetensors"], "FOLDER there, got no/x", id="no folder"),
        pytest.param([*SHORT, "--scenes=3"], "at most 3 images", id="too few scenes"),
        pytest.param([*SHORT, "--things=photo"], "did you mean 'photos'", id="things"),
        pytest.param([*SHORT, "--data-seed=-1"], r"seed in \[0", id="seed"),
    ],
)
def test_a_bad_choice_ends_with_one_sentence(options, message):
    with pytest.raises(SystemExit, match=message):
        main(options)


def test_the_help_says_what_the_program_is_for(capsys):
    with suppress(SystemExit):
        main(["--help"])
    assert labs.recipes.__doc__.splitlines()[0] in capsys.readouterr().out


def test_a_network_trains_in_the_memory_order_in_which_convolutions_are_fastest():
    weights = [p for p in detection_task(tiny(10), 4).network.parameters() if p.ndim == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_no_epoch_repeats_a_scene_and_each_can_be_drawn_again():
    task = detection_task(tiny(10), 4, data_seed=5)
    first, second = task.data(0), task.data(1)
    images = [data[i][0] for data in (first, second) for i in range(4)]
    assert len(first) == 4
    assert len({image.numpy().tobytes() for image in images}) == 8
    assert torch.equal(task.data(1)[2][0], second[2][0])
    assert not torch.equal(detection_task(tiny(10), 4, data_seed=6).data(0)[0][0], images[0])
    with pytest.raises(IndexError):
        first[4]


def test_other_scenes_are_another_run(tmp_path):
    options = [*SHORT, "--steps=1", f"--checkpoint={tmp_path}"]
    main(options)
    with pytest.raises(SystemExit, match="made with data_seed=0: use the same"):
        main([*options, "--resume", "--data-seed=1"])


def test_two_ranks_have_the_gradient_of_one_process():
    scenes = torch.arange(4)
    parity = gradient_parity(sharing.frozen_norms, sharing.loss_of_scenes, scenes, world_size=2)
    largest = max(row.max_abs for row in parity.parameters)
    assert parity.max_abs_diff < 1e-5 * largest, parity


def test_two_ranks_measure_what_one_does():
    alone = {n: sharing.figures(0, n) for n in (1, 5)}
    assert 0.5 < alone[5]["AP"] < alone[1]["AP"] == 1
    assert launch(sharing.every_figure, 2) == [alone, alone]


def test_torchrun_trains_and_writes_what_one_process_loads(tmp_path):
    path = tmp_path / "yolo_v8.safetensors"
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["yolo_v8", "--steps=5", "--batch-size=4", "--scenes=20", "--limit=20"]
    process = start([*program, "-m", "labs.recipes"], *options, f"--out={path}")
    out, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    assert re.search(r"^epoch 1 step 5 loss [\d.]+ AP50 \S+ AP \S+\ntest AP ", out, re.MULTILINE)
    assert trained(path).recipe["processes"] == 2


@pytest.mark.parametrize("name", list(DETECTORS))
def test_a_mini_is_small_and_its_parts_fit(name):
    detector = DETECTORS[name](3)
    network, images = detector.network, torch.rand(2, 3, 128, 128)
    assert sum(p.numel() for p in network.parameters()) <= 1_000_000
    one = {"boxes": torch.tensor([[20.0, 30.0, 50.0, 70.0]]), "labels": torch.tensor([2])}
    detector.loss(network, (images, [one, one])).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(len(found["boxes"]) for found in detector.detect(images))


def test_every_shipped_checkpoint_is_small_documented_and_as_good_as_it_says():
    page = (ROOT / "book/api/recipes.md").read_text(encoding="utf-8")
    drawn = {}  # once for all that are judged on the same scenes
    theirs = {"mobilenet_v2"}  # a published backbone, of no recipe
    assert {path.stem for path in FOLDER.glob("*.safetensors")} - theirs == set(SHIPPED)
    for name, digest in SHIPPED.items():
        assert len(read_asset(f"{name}.safetensors", digest)) <= 3_000_000
        shipped = trained(name)
        which = shipped.recipe["test"]
        assert which.items() >= TEST.items()
        assert shipped.recipe["command"] in page
        scenes = drawn.setdefault(str(which), held_out(which))
        assert shipped.classes == scenes.classes
        found = measure(shipped.detector, scenes, ALONE)
        for metric in ("AP", "AP50"):
            assert found[metric] >= shipped.metrics[metric] - 0.005, (name, metric, found)


def test_photographs_of_one_class_train_and_are_judged_as_such(tmp_path):
    path = tmp_path / "it.safetensors"
    options = ["--things", "photos", "--one-class", "--steps", "2", "--batch-size", "4"]
    main(["faster_rcnn", *options, "--scenes", "8", "--limit", "8", "--out", str(path)])
    made = trained(path)
    assert made.classes == ("thing",)
    assert made.recipe["test"] == {**TEST, "n": 8, "things": "photos", "one_class": True}
    assert "--things photos --one-class" in made.recipe["command"]
    judged = held_out(made.recipe["test"])
    assert {int(label) for target in judged.targets for label in target["labels"]} == {0}
    digits = held_out({**TEST, "n": 8})
    assert not torch.equal(judged.images, digits.images)
    found = measure(made.detector, judged, ALONE)
    assert found["AP50"] == pytest.approx(made.metrics["AP50"], abs=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_the_small_cascade_shares_its_gradients_when_asked_to(shared):
    assert mini_cascade_rcnn(3, shared=shared).network.shared is shared
