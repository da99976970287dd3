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

BASE = {"shift": 0.0, "scale": 0.1}
SLOW = {"file": "", "part": 0, "seconds": 0.05}


def noisy(shift, scale):
    return {"score": shift + scale * torch.randn(1).item(), "cost": 2.0 * shift}


def draws(library):
    """Draw one number from each library's global generator, after a while."""
    time.sleep(0.01)
    legacy = np.random.rand()  # noqa: NPY002
    return {"python": random.random(), "numpy": legacy, "torch": torch.rand(1).item()}


def where(part, wait=0.0):
    """Tell in which process this runs, with how many threads."""
    time.sleep(wait)
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


def signs(file, part, seconds):
    """Work for a while, and sign in the file at the end."""
    time.sleep(seconds)
    with open(file, "a") as signed:
        signed.write(json.dumps([part, torch.initial_seed()]) + "\n")
    return part + torch.rand(1).item()


def study_of_twelve(folder):
    base = {**SLOW, "file": str(Path(folder) / "signed")}
    return ablate(signs, base, "part", range(4), seeds=range(3), store=Path(folder) / "store")


def study_in_processes(folder):
    """Run for a minute in two processes, whose ids go into files of the folder."""
    with processes(2) as pool:
        ablate(signs_in, {"folder": folder, "part": 0}, "part", range(2), range(2), executor=pool)


def signs_in(folder, part):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(60)
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
