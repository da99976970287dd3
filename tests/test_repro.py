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
