"""Published weights load whole or not at all, and what does not fit is named."""

import pickle
import sys
from copy import deepcopy
from types import ModuleType

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from labs.evaluate import predict
from labs.models import (
    BasicBlock,
    Bottleneck,
    DigitNet,
    MobileNetV2,
    ResNet,
    YOLOv1,
    YOLOv3,
    YOLOv4,
    YOLOv5,
    YOLOv7,
    YOLOv8,
    load_published,
    mobilenet_v2,
    resnet18,
    resnet34,
    resnet50,
)
from tests.parity import test_darknet, test_modules
from tests.parity.darknet import file, flat

TORCHVISION = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": lambda: ResNet(Bottleneck, (3, 4, 23, 3)),
}


def shaken(reference):
    """Give every entry of a network of torchvision something to say."""
    torch.manual_seed(0)
    for part in reference.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.num_batches_tracked.fill_(5)
    return reference


def official():
    """Return the state dict of a ResNet with one block a stage, as torchvision has it."""
    block = torchvision.models.resnet.BasicBlock
    return shaken(torchvision.models.ResNet(block, [1, 1, 1, 1])).state_dict()


def small(num_classes=1000, shortcut="project"):
    """Build the same network of `labs`."""
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes, shortcut=shortcut)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", pytest.param("resnet101", marks=pytest.mark.slow)]
)
def test_resnets_of_torchvision_load_and_give_the_same_outputs(name):
    reference = shaken(getattr(torchvision.models, name)())
    model = TORCHVISION[name]()
    loaded = load_published(model, reference.state_dict())
    images = torch.rand(2, 3, 65, 41)
    expected = predict(reference, images)
    torch.testing.assert_close(predict(model, images), expected, rtol=0, atol=1e-6)
    assert loaded.names.keys() == reference.state_dict().keys()
    assert not loaded.extras


def test_mobilenet_of_torchvision_loads_and_gives_the_same_outputs(tmp_path):
    reference = shaken(torchvision.models.mobilenet_v2())
    torch.save(reference.state_dict(), tmp_path / "mobilenet_v2.pth")
    model = mobilenet_v2(pretrained=False)
    load_published(model, tmp_path / "mobilenet_v2.pth", "torchvision")
    images = torch.rand(2, 3, 65, 41)
    expected = predict(reference, model.normalize(images))
    torch.testing.assert_close(predict(model, images), expected, rtol=0, atol=1e-6)
    assert isinstance(model, MobileNetV2)


def test_files_of_both_kinds_load_like_the_state_dict(tmp_path):
    state = official()
    torch.save(state, tmp_path / "r.pth")
    save_file(state, tmp_path / "r.safetensors")
    for source in (tmp_path / "r.pth", str(tmp_path / "r.safetensors")):
        model = small()
        load_published(model, source)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_older_files_without_counters_load():
    state = {name: t for name, t in official().items() if "num_batches" not in name}
    model = small()
    loaded = load_published(model, state)
    assert len(loaded.names) == len(state)
    assert torch.equal(model.bn1.running_var, state["bn1.running_var"])


def test_weights_are_cast_to_the_precision_of_the_network_and_modes_stay():
    model = small().double().eval()
    model.fc.weight.requires_grad_(False)
    state = {n: t.half() if t.is_floating_point() else t for n, t in official().items()}
    load_published(model, state)
    assert torch.equal(model.conv1.weight, state["conv1.weight"].double())
    assert not model.training
    assert not model.fc.weight.requires_grad
    assert model.conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("case", "extras"),
    [
        ("v8n", {"model.22.dfl.conv.weight"}),
        ("v8n with masks", {"model.22.dfl.conv.weight"}),
        ("v5n", {"model.24.anchors"}),
        ("v7, narrow", {"model.105.anchors", "model.105.anchor_grid"}),
    ],
)
def test_what_a_file_holds_besides_is_handed_back(case, extras):
    _, _, weights, network = test_modules.pair(case)
    anchors = {name: torch.rand(3, 3, 2) for name in extras if "dfl" not in name}
    loaded = load_published(deepcopy(network), weights.tensors | anchors, "ultralytics")
    assert loaded.extras.keys() == extras
    table = loaded.table().set_index("published")
    assert len(table) == len(weights.tensors | anchors)
    assert set(table["note"]) == {"loaded", *(loaded.reasons[name] for name in extras)}
    assert table.loc["model.0.conv.weight"].tolist()[1] == "loaded"
    assert f"{len(loaded.names)} entries and not {next(iter(loaded.extras))}" in repr(loaded)


def refused(model, source, layout, message):
    """Expect an error with this message, and a network that is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_published(model, source, layout)
    for name, value in model.state_dict().items():
        assert value.is_meta or torch.equal(value, before[name]), name


def without(state, name):
    return {other: value for other, value in state.items() if other != name}


def renamed(state, old, new):
    return {new if name == old else name: value for name, value in state.items()}


def test_one_entry_that_does_not_fit_keeps_all_the_others_out():
    state, last = official(), "fc.bias"
    wrong = "expected the entries of this ResNet as torchvision names them, got "
    refused(small(), without(state, last), "torchvision", wrong + r"no fc.bias; 1 in all")
    extra = state | {"extra": torch.zeros(2)}
    refused(small(), extra, "torchvision", wrong + "unexpected extra; 1 in all .* nothing was")
    refused(
        small(),
        renamed(state, "layer4.0.bn2.weight", "layer4.0.bn2.wieght"),
        "torchvision",
        r"no layer4.0.bn2.weight; did you mean 'layer4.0.bn2.wieght'\?; "
        r"unexpected layer4.0.bn2.wieght; did you mean 'layer4.0.bn2.weight'\?; 2 in all",
    )
    shape = wrong + r"fc.bias \[1000\] in place of \[7\]|fc.weight \[1000, 512\] in place of \[7"
    refused(small(7), state, "torchvision", shape)
    whole = state | {last: torch.zeros(1000, dtype=torch.int64)}
    refused(small(), whole, "torchvision", "fc.bias as torch.int64 on cpu in place of")
    for build in (resnet18, lambda: small(shortcut="none")):
        refused(build(), state, "torchvision", "in all do not fit, and nothing was loaded; build")
    wrapped = {f"module.{name}": value for name, value in state.items()}
    refused(small(), wrapped, "torchvision", "no conv1.weight; did you mean 'module.conv1.we")


@pytest.mark.parametrize("case", ["v5n", "v7, narrow", "v8n", "v8n with masks"])
def test_any_missing_entry_of_a_program_is_named(case):
    _, _, weights, network = test_modules.pair(case)
    network, wrong = deepcopy(network), torch.zeros(3, 5)
    names = [n for n in weights.tensors if "dfl" not in n and "num_batches" not in n]
    for name in names[::61]:
        left = without(weights.tensors, name)
        refused(network, left, "ultralytics", rf"got no {name}(;|$)")
        refused(network, weights.tensors | {name: wrong}, "ultralytics", rf"{name} \[3, 5\] in pl")


def test_bins_that_are_others_are_refused():
    _, _, weights, network = test_modules.pair("v8n")
    name = "model.22.dfl.conv.weight"
    for wrong in (weights.tensors[name] + 1, torch.arange(8.0)):
        state = weights.tensors | {name: wrong}
        refused(deepcopy(network), state, "ultralytics", f"{name} with other values than the num")


@pytest.mark.parametrize(
    ("build", "layout", "message"),
    [
        (
            resnet18,
            "torchvison",
            r"layout of torchvision, transformers, authors, .*, got 'torchvison'; d",
        ),
        (small, "darknet", r"\(YOLOv3, YOLOv4\), got ResNet; its layout is 'torchvision'"),
        (DigitNet, "torchvision", r"\(ResNet, MobileNetV2, VGG, .*, ViT\), got DigitNet$"),
        (YOLOv3, "ultralytics", "got YOLOv3; its layout is 'darknet'"),
        (lambda: YOLOv1(image_size=(64, 64), width=0.1, hidden=8), "darknet", "got YOLOv1$"),
        (
            lambda: YOLOv8(3, strides=(8, 16)),
            "ultralytics",
            r"strides \(8, 16, 32\), got \(8, 16\)",
        ),
        (
            lambda: YOLOv5(3, strides=(8, 16)),
            "ultralytics",
            r"strides \(8, 16, 32\), got \(8, 16\)",
        ),
        (lambda: YOLOv7(3, width=0.1, strides=(8,)), "ultralytics", r"\(8, 16, 32\), got \(8,\)"),
        (lambda: YOLOv7(3, width=0.1, extended=True), "ultralytics", "extended=False and depth=2"),
        (lambda: YOLOv7(3, width=0.1, depth=3), "ultralytics", "extended=False and depth=2"),
        (lambda: YOLOv7(3, width=0.1).fuse(), "ultralytics", "load first, and fuse then"),
        (lambda: YOLOv8(3, width=0.1, eps=1e-5), "ultralytics", "0.001, got 1e-05: build it with"),
        (lambda: YOLOv3(3, width=0.1, eps=1e-3), "darknet", "1e-05, got 0.001: build it with eps"),
    ],
)
def test_a_network_that_no_file_is_for_is_refused(build, layout, message):
    refused(build(), {"a": torch.zeros(1)}, layout, message)


def test_a_network_without_numbers_is_refused():
    with torch.device("meta"):
        model = small()
    refused(model, official(), "torchvision", "got one on the meta device")


def test_what_is_no_state_dict_is_refused_with_the_way_to_it(tmp_path):
    state = official()
    refused(small(), {"epoch": 3, "state_dict": state}, "torchvision", "give the entry 'state_d")
    refused(small(), small(), "torchvision", r"got ResNet; of a network give its .state_dict")
    refused(small(), [1, 2], "torchvision", "expected a state dict, tensors by name, got list")
    path = tmp_path / "x.pth"
    for content in (b"", b"<html>not found</html>", b"PK\x03\x04 half a zip"):
        path.write_bytes(content)
        refused(small(), path, "torchvision", r"load_published: expected \S*x.pth to ")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"half a file")
    refused(small(), path, "torchvision", "what torch.save or safetensors wrote, got something")
    with pytest.raises(FileNotFoundError):
        load_published(small(), tmp_path / "none.pth")


OPENED = []


class Trap:
    """Say so when a pickle of it is opened."""

    def __reduce__(self):
        return OPENED.append, (1,)


def test_a_pickle_of_whole_modules_is_not_opened(tmp_path, monkeypatch):
    program = ModuleType("some_program")
    program.Net = type("Net", (nn.Linear,), {"__module__": "some_program"})
    monkeypatch.setitem(sys.modules, "some_program", program)
    for i, whole in enumerate(({"model": program.Net(2, 2)}, {"model": Trap()}, Trap())):
        path = tmp_path / f"{i}.pt"
        torch.save(whole, path)
        message = "got a pickle of other objects.*not opened; in an environment .*torch.save"
        refused(small(), path, "torchvision", message)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    refused(small(), tmp_path / "plain.pt", "torchvision", "load_published: expected")
    assert not OPENED


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_darknet_file_that_does_not_fit_is_refused(version, tmp_path):
    table, weights, network = test_darknet.pair(version)
    numbers, content = flat(table, weights), file(table, weights)
    build = {"v3": YOLOv3, "v4": YOLOv4}[version]
    model = deepcopy(network)
    refused(model, numbers[:-1], "darknet", rf"expected {len(numbers):,} numbers .* got [\d,]+; no")
    refused(build(7, width=0.125), numbers, "darknet", "; as many as num_classes=80 gives; nothing")
    refused(build(width=0.25), numbers, "darknet", "numbers for this YOLOv.*; nothing was loaded")
    refused(model, content[:-4], "darknet", "numbers for this YOLO")
    refused(model, content[:-3], "darknet", "numbers of 4 bytes each, got .* cut off")
    refused(model, b"<html>not found</html>", "darknet", "begins with its version, got 22 bytes")
    refused(model, b"", "darknet", r"begins with its version, got 0 bytes")
    refused(model, numbers.view(1, -1), "darknet", "one flat tensor of floats, got")
    refused(model, numbers.long(), "darknet", "one flat tensor of floats, got torch.int64")
    refused(model, {"a": numbers}, "darknet", "has no names, got a state dict of 1 entries")
    with pytest.raises(FileNotFoundError):
        load_published(model, tmp_path / "none.weights", "darknet")


def test_basic_blocks_have_the_names_of_torchvision():
    theirs = torchvision.models.resnet18().layer1[0].state_dict()
    assert BasicBlock(64, 64).state_dict().keys() == theirs.keys()
