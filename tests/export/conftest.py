"""Export the small network that most tests of this folder look at, once."""

import shutil

import pytest
import torch

from labs.export import to_onnx
from tests.models import ThreeBlocks


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return a ThreeBlocks in eval mode and its file, with dynamic batch, height and width."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = ThreeBlocks().eval()
    path = tmp_path_factory.mktemp("export") / "blocks.onnx"
    dynamic = {0: "batch", 2: "height", 3: "width"}
    return model, to_onnx(model, torch.rand(2, 1, 16, 16), path, dynamic)


@pytest.fixture
def path(exported, tmp_path):
    """Return a copy of the file that a test may spoil."""
    return shutil.copy(exported[1], tmp_path / "model.onnx")
