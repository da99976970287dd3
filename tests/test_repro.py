import random

import numpy as np
import pytest
import torch

from labs.repro import budget, device, random_state_kept, seed_everything, versions


def draw(generator):
    return (
        random.random(),
        float(np.random.rand()),  # noqa: NPY002  the global state is what is tested
        torch.rand(1).item(),
        torch.rand(1, generator=generator).item(),
    )


def test_the_same_seed_repeats_every_source_of_chance():
    first, again, other = (draw(seed_everything(seed)) for seed in (3, 3, 4))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_would_refuse_is_refused_with_the_range(seed):
    with pytest.raises(ValueError, match=r"0 <= seed < 2\*\*32"):
        seed_everything(seed)


def test_the_budget_follows_the_device(monkeypatch):
    monkeypatch.setenv("LABS_DEVICE", "cpu")
    assert budget(cpu=1, gpu=2) == 1
    monkeypatch.setenv("LABS_DEVICE", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device().type == "cuda"
    assert budget(cpu=1, gpu=2) == 2


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("LABS_DEVICE", "tpu")
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'tpu'"):
        device()
    monkeypatch.setenv("LABS_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="labs doctor"):
        device()


def test_versions_name_what_ran():
    table = versions().table().set_index("what")["version"]
    assert table["torch"] == torch.__version__
    assert set(table.index) >= {"python", "torchvision", "device", "threads"}


def draw_and_raise():
    with random_state_kept():
        draw(seed_everything(4))
        raise ZeroDivisionError


def test_the_random_state_is_kept_also_when_the_block_raises():
    expected = draw(seed_everything(3))
    generator = seed_everything(3)
    with pytest.raises(ZeroDivisionError):
        draw_and_raise()
    assert draw(generator) == expected


@pytest.fixture
def accelerators(monkeypatch):
    """Pretend that there are two CUDA devices, one of Intel, and one of Apple."""
    for backend, count in ((torch.cuda, 2), (torch.xpu, 1)):
        monkeypatch.setattr(backend, "is_available", lambda: True)
        monkeypatch.setattr(backend, "device_count", lambda count=count: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps", "xpu", "xpu:0"])
def test_a_device_that_is_chosen_is_taken(monkeypatch, accelerators, name):
    monkeypatch.setenv("LABS_DEVICE", name)
    assert device() == torch.device(name)
    assert budget(cpu="small", gpu="large") == ("small" if name == "cpu" else "large")


def test_only_cuda_is_taken_by_itself(monkeypatch, accelerators):
    monkeypatch.delenv("LABS_DEVICE", raising=False)
    assert device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cdua", "expected .* got 'cdua'; did you mean 'cuda'"),
        ("CUDA", "got 'CUDA'; did you mean 'cuda'"),
        ("cuda:", "got 'cuda:'"),
        ("cuda:x", "got 'cuda:x'"),
        ("cuda:-1", "got 'cuda:-1'"),
        ("cuda:2", "LABS_DEVICE=cuda:2, but PyTorch sees 2 of that kind, counted from 0"),
        ("cpu:1", "sees 1 of that kind"),
        ("mps:1", "sees 1 of that kind"),
        ("meta", "got 'meta'"),
    ],
)
def test_a_device_that_cannot_be_is_refused(monkeypatch, accelerators, name, message):
    monkeypatch.setenv("LABS_DEVICE", name)
    with pytest.raises(ValueError, match=message):
        device()


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_an_accelerator_that_is_missing_is_named(monkeypatch, name):
    backend = torch.backends.mps if name == "mps" else torch.xpu
    monkeypatch.setattr(backend, "is_available", lambda: False)
    monkeypatch.setenv("LABS_DEVICE", name)
    with pytest.raises(ValueError, match=f"sees no {name}, .*set LABS_DEVICE=cpu"):
        device()
