import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def snapshot(model):
    """Describe everything about a model, and the random state, that a helper must not change."""
    modules = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "hooks": {name: [len(getattr(m, kind)) for kind in HOOKS] for name, m in modules.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "identity": {name: (id(t), t._version, t.requires_grad) for name, t in tensors.items()},
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "gradients": {
            name: None if p.grad is None else (id(p.grad), p.grad.clone())
            for name, p in model.named_parameters()
        },
        "tensor hooks": {name: t._backward_hooks for name, t in tensors.items()},
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def one_rank(tmp_path):
    """Start a process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def no_trace():
    """Return a context manager that fails when the block changed the model in any way."""

    @contextmanager
    def checked(model):
        before = snapshot(model)
        yield
        after = snapshot(model)
        changed = [what for what in before if not same(before[what], after[what])]
        assert not changed, f"the helper left a trace: {changed}"

    return checked
