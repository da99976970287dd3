"""Convert models to ONNX, and refuse what cannot be converted."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from labs.export import ExportError, onnx_file, session, to_onnx
from tests.models import (
    BranchesOnValues,
    CallsAnUnknownOperator,
    DictInput,
    FixedBatch,
    ThreeBlocks,
    TwoInputs,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

BATCH = {0: "batch"}
X = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


def test_the_file_says_how_it_was_made(exported):
    proto = onnx_file.read(exported[1])

    noted = onnx_file.note(proto)

    assert noted.torch == torch.__version__
    assert noted.opset == next(e.version for e in proto.opset_import if e.domain == "")
    assert noted.dynamic == {"x": {0: "batch", 2: "height", 3: "width"}}
    assert noted.example == {"x": (2, 1, 16, 16)}
    assert onnx_file.shapes(proto.graph.input) == {"x": ("batch", 1, "height", "width")}


def test_opset_and_output_names_are_as_asked(tmp_path):
    model = nn.Linear(4, 3).eval()
    path = to_onnx(model, X, tmp_path / "m.onnx", BATCH, opset=18, outputs=["logits"])
    assert onnx_file.note(onnx_file.read(path)).opset == 18
    assert session(path, []).outputs == ("logits",)


def test_the_file_holds_no_path_of_this_machine(exported):
    assert b'File "' not in exported[1].read_bytes()
    assert os.fsencode(os.path.dirname(__file__)) not in exported[1].read_bytes()


def test_the_export_leaves_no_trace(tmp_path, capfd, recwarn):
    model = ThreeBlocks().eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002

    to_onnx(model, torch.rand(2, 1, 8, 8, generator=torch.Generator()), tmp_path / "m.onnx", BATCH)

    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_several_inputs_share_the_named_batch(tmp_path):
    model, left, right = TwoInputs(), torch.rand(2, 3), torch.rand(2, 2)
    path = to_onnx(model.eval(), (left, right), tmp_path / "m.onnx", BATCH)
    run = session(path, [])
    assert run.inputs == {"left": ("batch", 3), "right": ("batch", 2)}
    total, count = run(torch.ones(5, 3), torch.ones(5, 2))
    assert total.tolist() == [[5.0]] * 5
    assert count.tolist() == [3] * 5


def test_dynamic_dimensions_are_named_per_argument(tmp_path):
    model, example = TwoInputs().eval(), (torch.rand(2, 3), torch.rand(2, 2))
    names = {"left": {0: "batch", 1: "points"}, "right": BATCH}
    run = session(to_onnx(model, example, tmp_path / "m.onnx", names), [])
    assert run.inputs == {"left": ("batch", "points"), "right": ("batch", 2)}


@pytest.mark.parametrize("dynamic", [BATCH, {"sample": {"image": BATCH, "weight": BATCH}}])
def test_a_dict_is_one_argument(tmp_path, dynamic):
    sample = {"image": torch.rand(2, 3), "weight": torch.rand(2, 3)}
    run = session(to_onnx(DictInput().eval(), sample, tmp_path / "m.onnx", dynamic), [])
    image, weight = torch.rand(4, 3), torch.rand(4, 3)
    out, aux = run({"image": image, "weight": weight})
    torch.testing.assert_close(out, image * weight)
    torch.testing.assert_close(aux, image * weight + 1)


def test_a_failed_write_keeps_the_old_file(path, exported, monkeypatch):
    before = path.read_bytes()

    def fail(model, target, **options):
        target.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        onnx_file.write(onnx.load(path), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_large_weights_go_to_a_file_beside_it(path, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_LARGEST_SINGLE_FILE", 100)
    monkeypatch.setattr("onnx.save", lambda m, f, **o: _save(m, f, size_threshold=200, **o))
    onnx_file.write(onnx_file.read(exported[1]), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(session(path, [])(x), session(exported[1], [])(x))
    with onnx_file.loadable(onnx_file.read(path)) as source:
        assert isinstance(source, str)


_save = onnx.save


def test_it_refuses_train_mode(tmp_path):
    model = ThreeBlocks().eval()
    model.blocks[1].norm.train()
    with pytest.raises(ValueError, match=r"1 in train mode \(blocks\.1\.norm\).*model\.eval\(\)"):
        to_onnx(model, torch.rand(2, 1, 8, 8), tmp_path / "m.onnx")


def test_it_names_the_missing_operator_and_its_layer(tmp_path):
    with pytest.raises(
        ExportError, match=r"torch\.ops\.\w+\.\w*bessel_j0\.default, which layer 'inner'"
    ):
        to_onnx(CallsAnUnknownOperator().eval(), X, tmp_path / "m.onnx", BATCH)
    assert list(tmp_path.iterdir()) == []


def test_a_translation_supplies_the_missing_operator(tmp_path):
    from onnxscript import opset20 as op

    def bessel(x):  # its series to the fourth order, good enough for [0, 1)
        square = op.Mul(x, x)
        first = op.Mul(square, op.Constant(value_float=-1 / 4))
        second = op.Mul(op.Mul(square, square), op.Constant(value_float=1 / 64))
        return op.Add(op.Add(op.Constant(value_float=1.0), first), second)

    operator = torch.ops.prims.bessel_j0.default
    model = CallsAnUnknownOperator().eval()
    path = to_onnx(model, X, tmp_path / "m.onnx", BATCH, translations={operator: bessel})
    torch.testing.assert_close(session(path, [])(X)[0], model(X), atol=1e-3, rtol=0)


def test_it_names_the_line_that_looks_at_values(tmp_path, capfd):
    with pytest.raises(ExportError, match=r"models\.py:\d+, in forward\(\).*torch\.where"):
        to_onnx(BranchesOnValues().eval(), X, tmp_path / "m.onnx")
    assert capfd.readouterr().out == ""


def test_it_refuses_a_dynamic_size_that_the_code_fixes(tmp_path):
    with pytest.raises(ExportError, match=r"named as dynamic, but the model's code fixes it to 2"):
        to_onnx(FixedBatch().eval(), X, tmp_path / "m.onnx", BATCH)


@pytest.mark.parametrize(
    ("dynamic", "error", "message"),
    [
        pytest.param({"left": BATCH, "right": {0: "n"}}, ValueError, "always equals", id="equal"),
        pytest.param({"lefd": BATCH}, TypeError, "forward takes left, right", id="argument"),
        pytest.param({7: "z"}, TypeError, r"shape \(2, 3\); count from 0", id="dimension"),
        pytest.param([BATCH], TypeError, "expected dynamic like", id="structure"),
        pytest.param({0: "n", 1: "n"}, ValueError, "'n' is 2 in one place", id="two sizes"),
    ],
)
def test_it_refuses_names_that_do_not_fit(tmp_path, dynamic, error, message):
    example = torch.rand(2, 3), torch.rand(2, 3)
    with pytest.raises(error, match=message):
        to_onnx(TwoInputsAdded().eval(), example, tmp_path / "m.onnx", dynamic)


class TwoInputsAdded(nn.Module):
    """Add two tensors whose first sizes must then be equal."""

    def forward(self, left, right):
        return torch.cat([left, right], 1)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="expected an ONNX model"):
        onnx_file.read(tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="to_onnx"):
        onnx_file.read(tmp_path / "none.onnx")


def test_it_imports_without_onnx_and_says_what_to_install():
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'onnxscript', 'graphviz'): sys.modules[name] = None\n"
        "import torch, labs.export\n"
        "try: labs.export.to_onnx(torch.nn.ReLU().eval(), torch.rand(2), 'm.onnx')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "labs.export needs onnx, and" in done.stdout
    assert 'pip install "cv-debugged[export]"' in done.stdout
