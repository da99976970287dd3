"""A study that takes milliseconds, in a module, so that processes can import it."""

import torch

from labs.studies import Experiment


def descend(rate, steps):
    """Go down a parabola from a random place, and record the way."""
    x = torch.randn(1)
    for step in range(1, steps + 1):
        x = x - rate * 2 * x
        yield {"step": step, "loss": (x**2).item()}
    yield {"step": steps + 1, "loss": (x**2).item(), "score": 1 - x.abs().item()}


def fails(rate, steps):
    yield {"step": 1, "loss": 1.0}
    if rate > 0.3:
        raise RuntimeError("too fast")


PLAN = {
    "base": {"rate": 0.1, "steps": 5},
    "vary": "rate",
    "values": (0.1, 0.4),
    "seeds": (0, 1, 2),
}
EXPERIMENT = Experiment("small", "Does a larger rate descend faster?", descend, **PLAN)
