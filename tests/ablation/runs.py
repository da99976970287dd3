"""Keep the functions that the tests ablate where another process can import them."""

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small

from labs.ablation import ablate, processes
from tests.waiting import HANG, until

BASE = {"shift": 0.0, "scale": 0.1}


def noisy(shift, scale):
    return {"score": shift + scale * torch.randn(1).item(), "cost": 2.0 * shift}


def draws(library):
    """Draw one number from each library's global generator, after a while."""
    time.sleep(0.01)
    legacy = np.random.rand()  # noqa: NPY002
    return {"python": random.random(), "numpy": legacy, "torch": torch.rand(1).item()}


def where(part, folder):
    """Tell in which process this runs, with how many threads, once two processes run it."""
    Path(folder, str(os.getpid())).touch()
    until(lambda: len(os.listdir(folder)) == 2)
    threads = int(os.environ["OMP_NUM_THREADS"])
    return {"pid": os.getpid(), "torch": torch.get_num_threads(), "OpenMP": threads}


def fails_at(limit, part=0):
    if part >= limit:
        raise ValueError("too large\nwith a second line")
    return float(part)


def dies_at(part):
    if part == 1:
        os._exit(3)
    time.sleep(0.3)
    return float(part)


def signs(file, part):
    """Sign in the file."""
    with open(file, "a") as signed:
        signed.write(json.dumps([part, torch.initial_seed()]) + "\n")
    return part + torch.rand(1).item()


def signs_when_allowed(folder, part):
    """Say that a run has begun, wait until a run is allowed, and sign."""
    with open(Path(folder, "begun"), "a") as begun:
        begun.write("1\n")
    until(lambda: took(Path(folder, "allowed")))
    return signs(Path(folder, "signed"), part)


def took(allowed):
    """Take one of the files of a folder, if there is any."""
    for file in allowed.iterdir():
        file.unlink()
        return True
    return False


def study_of_twelve(folder):
    base, store = {"folder": str(folder), "part": 0}, Path(folder) / "store"
    return ablate(signs_when_allowed, base, "part", range(4), seeds=range(3), store=store)


def study_in_processes(folder):
    """Run for ever in two processes, whose ids go into files of the folder."""
    with processes(2) as pool:
        ablate(signs_in, {"folder": folder, "part": 0}, "part", range(2), range(2), executor=pool)


def signs_in(folder, part):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(2 * HANG)
    return 0.0


def mobilenet_head(dropout, steps=2):
    """Train a few steps of a MobileNetV3-small, and return its loss."""
    net = mobilenet_v3_small(num_classes=3, dropout=dropout)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.SGD(net.classifier.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    return {"loss": loss.detach(), "parameters": sum(p.numel() for p in net.parameters())}


def with_norm(norm):
    """Take a class as the setting."""
    return nn.Sequential(nn.Linear(2, 4), norm(4))(torch.rand(8, 2)).std()
