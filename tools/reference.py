"""Time a fixed piece of work, so that the seconds of two machines can be compared.

    python -m tools.reference

A budget in seconds means another amount of work on every machine, and one virtual machine is not as
fast on every day. So an execution also records how long this piece of work took there.
"""

from __future__ import annotations

import time

SECONDS = 2.3
"""What the work takes on the machine whose seconds the budgets are counted in."""


def measure(tries: int = 5) -> float:
    """Return the least processor time of the work, in seconds, on one thread.

    It trains what a lesson trains: small convolutions with batch norm, forward and backward.
    """
    import torch
    from torch import nn

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Sequential(nn.Conv2d(c, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.SiLU())
            for c in (3, 32, 32)
        ]
        net = nn.Sequential(*layers)
        images = torch.rand(16, 3, 64, 64)
        took = []
        for _ in range(tries):
            began = time.thread_time()
            for _ in range(20):
                net(images).square().mean().backward()
            took.append(time.thread_time() - began)
    torch.set_num_threads(before)
    return min(took)


if __name__ == "__main__":
    print(f"{measure():.3f} s here, {SECONDS} s where the budgets are counted")
