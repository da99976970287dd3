"""Everything runs on a device that is not the CPU, told on one that is only pretended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
YOLOS = ("v1", "v1 with a convolution as head", "v3", "v4", "v5", "v7", "v8", "v8 with masks")
CASCADES = ("Cascade R-CNN", "Cascade R-CNN, gradients shared")
DETRS = ("DETR", "DETR, pre-norm", "Deformable DETR")
DETRS = (*DETRS, "Deformable DETR, refined", "Deformable DETR, two stages")
KINDS = (*YOLOS, "SSD", "Faster R-CNN", "Faster R-CNN, one correction", *CASCADES, *DETRS)
CASES = [
    *(f"train {name}" for name in ("DigitNet", "ResNet-18", "ResNet of CIFAR", "MobileNetV2")),
    *(f"{what} {kind}" for kind in KINDS for what in ("train", "criterion of", "postprocess of")),
    *(f"fuse {kind}" for kind in ("v5", "v7", "v8 with masks")),
    *(f"detect and score with {kind}" for kind in ("v5", "v7", "v8 with masks")),
    *("targets", "metrics", "hooks", "fit a classifier", "fit a detector"),
]  # fmt: skip


def child(*arguments):
    """Return what Python prints; in this process the device could not be taken away again."""
    told = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture(scope="module")
def told():
    return json.loads(child("-m", "tests.pretend.cases"))


@pytest.mark.parametrize("case", CASES)
def test_it_runs_there_as_on_the_cpu(told, case):
    assert told[case] is None, told[case]


def test_no_case_is_left_out(told):
    assert sorted(told) == sorted(CASES)


FAITHFUL = """
import torch
from tests.pretend.device import DEVICE, pretended

def refused(call, error=RuntimeError, words="at least two devices"):
    try:
        call()
    except error as raised:
        return words in str(raised)
    return False

with pretended() as device:
    there, here = torch.arange(6.0, device=device).view(2, 3), torch.arange(6.0).view(2, 3)
    leaf = torch.ones(3, device=device, requires_grad=True)
    (leaf * there).sum().backward()
    print([
        there.device == DEVICE == leaf.grad.device,
        refused(lambda: there + here),
        refused(lambda: torch.cat([there, here])),
        refused(lambda: here[there[0].long().clamp(max=1)]),
        refused(lambda: there.index_put((torch.tensor([0]),), here[:1])),
        refused(lambda: here.add_(there)),
        refused(lambda: there.numpy(), Exception, "numpy"),
        torch.equal((there * torch.tensor(2.0)).cpu(), here * 2),
        torch.equal(there[torch.tensor([1])].cpu(), here[[1]]),
        torch.equal(here.clone().copy_(there), here),
        there.new_tensor([1]).device == torch.tensor([1], device=device).device == DEVICE,
        torch.zeros(1, device=device).device == there.new_zeros(1).device == DEVICE,
        there.add_(1) is there and there.tolist() == (here + 1).tolist(),
        (there > 3).any().item(),
        torch.ones(1).device.type == "cpu",
    ])
print(torch.tensor([1]).device.type)
"""


def test_the_pretended_device_refuses_what_a_real_one_does():
    first, second = child("-c", FAITHFUL).splitlines()
    assert first == str([True] * 15)
    assert second == "cpu"


def test_this_process_does_not_know_the_device():
    with pytest.raises(RuntimeError, match="pretend"):
        torch.zeros(1, device="pretend")
