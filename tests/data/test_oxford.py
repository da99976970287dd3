import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from labs.data import flowers102


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Write six pictures as torchvision stores the set: 2 of train, 1 of val, 3 of test."""
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        picture = Image.new("RGB", (80, 50), (40 * number, 0, 0))
        picture.save(folder / "jpg" / f"image_{number:05d}.jpg", quality=100)
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 1, 2, 50, 102, 102])})
    ids = {"trnid": np.array([1, 4]), "valid": np.array([2, 2]), "tstid": np.array([3, 5, 6])}
    savemat(folder / "setid.mat", ids)
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)  # of the real files
    return tmp_path


def test_pictures_are_scaled_and_labelled(root):
    data = flowers102(root, "test", size=32)
    assert data.images.shape == (3, 3, 32, 32)
    assert data.images.dtype == torch.float32
    by_source = {int(s): i for i, s in enumerate(data.sources)}
    assert sorted(by_source) == [2040, 2041, 2042]
    assert data.labels[[by_source[2040], by_source[2041]]].tolist() == [1, 101]
    assert data.images[by_source[2040], 0].mean() == pytest.approx(120 / 255, abs=0.01)
    assert len(data.classes) == 102


def test_first_n_of_a_seeded_order(root):
    whole, first = flowers102(root, "test", size=16), flowers102(root, "test", n=2, size=16)
    assert torch.equal(whole.sources[:2], first.sources)
    orders = {tuple(flowers102(root, "test", size=16, seed=s).sources.tolist()) for s in range(8)}
    assert len(orders) > 1


def test_errors_say_expected_and_got(root, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'val' or 'test', got 'valid'"):
        flowers102(root, "valid")
    with pytest.raises(ValueError, match="1 <= n <= 2 train images, got 3"):
        flowers102(root, n=3)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"flowers-102.*download=True\)"):
        flowers102(tmp_path / "nowhere")
