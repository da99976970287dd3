"""Explain an error, or say less: never raise another one in its place."""

import pytest
import torch
from torch import nn

from labs.export import (
    ExportError,
    ParityError,
    QuantizationError,
    benchmark,
    check,
    exporter,
    onnx_file,
    parity,
    quantize,
    session,
    to_onnx,
)
from labs.export.session import CPU
from labs.machine import first_line
from tests.models import (
    BranchesOnValues,
    GroupedUpsampler,
    MaskedEncoder,
    RaisesUnwritable,
    TiedTable,
    Unwritable,
    WorksOnce,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

BATCH = {0: "batch"}


def test_an_encoder_with_a_mask_names_its_fast_path_and_the_way_round_works(tmp_path):
    model, x = MaskedEncoder().eval(), torch.rand(2, 5, 8)
    with pytest.raises(ExportError, match=r"_encoder_layer_fwd.*set_fastpath_enabled\(False\)"):
        to_onnx(model, x, tmp_path / "m.onnx", BATCH)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model = MaskedEncoder(is_causal=True).eval()
        path = to_onnx(model, x, tmp_path / "m.onnx", BATCH)
        assert parity(model, path, [torch.rand(3, 5, 8)]).ok
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_an_explanation_that_fails_leaves_the_reason(tmp_path, monkeypatch):
    def fail(*arguments):
        raise LookupError("no words")

    monkeypatch.setattr(exporter, "_explain", fail)
    monkeypatch.setattr(exporter, "_traced_caller", fail)
    with pytest.raises(ExportError, match=r"to_onnx: the exporter stopped: \w+Error: "):
        to_onnx(BranchesOnValues().eval(), torch.rand(2, 4), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="which the model calls; it is"):
        to_onnx(MaskedEncoder().eval(), torch.rand(2, 5, 8), tmp_path / "m.onnx")


def test_an_error_without_words_is_explained(tmp_path):
    assert first_line(Unwritable()) == "Unwritable: it cannot be written: RuntimeError"
    with pytest.raises(ExportError, match="to_onnx: the exporter stopped"):
        to_onnx(RaisesUnwritable().eval(), torch.rand(2, 4), tmp_path / "m.onnx")
    (row,) = benchmark(
        {"it": RaisesUnwritable().eval()}, torch.rand(2, 4), rounds=1, warmup=1
    ).timings
    assert (row.n, row.why_not) == (0, "Unwritable: it cannot be written: RuntimeError")


def test_outputs_that_differ_are_told_although_the_layers_cannot_be_compared(tmp_path):
    model = WorksOnce().eval()
    path = to_onnx(model.layer, torch.rand(2, 4), tmp_path / "m.onnx", BATCH)
    with pytest.raises(ParityError, match=r"differs by up to 1; 100.*compared: OSError: out of wo"):
        parity(model, path, [torch.rand(3, 4)])


def test_a_contender_that_does_not_load_is_a_row(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    done = benchmark({"ok": nn.ReLU().eval(), "bad": tmp_path / "m.onnx"}, torch.rand(2), rounds=1)
    assert done["ok"].n == 1
    assert done["bad"].n == 0
    assert "INVALID_PROTOBUF" in done["bad"].why_not
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        benchmark({"gone": tmp_path / "gone.onnx"}, torch.rand(2))


def test_a_report_on_a_file_that_does_not_load_is_a_finding(exported, path):
    model = onnx_file.read(path)
    next(n for n in model.graph.node if n.op_type == "Relu").domain = "nobody.knows"
    model.opset_import.add(domain="nobody.knows", version=1)
    onnx_file.write(model, path)
    report = check(path)
    assert not report.ok
    assert any("nobody.knows" in problem for problem in report.problems)


def test_scopes_of_another_tool_are_no_layers(exported, path, tmp_path):
    model = onnx_file.read(path)
    for entry in model.graph.node[0].metadata_props:
        entry.value = "no list ["
    onnx_file.write(model, path)
    assert session(quantize(path, tmp_path / "q.onnx")).provider


@pytest.fixture
def upsampler(tmp_path):
    x = torch.rand(2, 8, 9, 9, generator=torch.Generator().manual_seed(0))
    model = GroupedUpsampler().eval()
    return model, x, to_onnx(model, x, tmp_path / "up.onnx", BATCH)


def test_what_cannot_be_quantised_is_named_and_writes_nothing(upsampler, tmp_path):
    _, x, path = upsampler
    target = tmp_path / "up8.onnx"
    target.write_bytes(b"the old one")
    with pytest.raises(QuantizationError, match=r"in groups: keep 'up' \([^,]*\) in float32"):
        quantize(path, target, [x])
    assert target.read_bytes() == b"the old one"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["up.onnx", "up8.onnx"]
    for kept in ("up", ""):
        small = session(quantize(path, target, [x], keep=[kept]), [CPU])
        torch.testing.assert_close(small(x)[0], session(path, [CPU])(x)[0], atol=0.02, rtol=0)


def test_a_product_that_does_not_run_is_refused(upsampler, tmp_path, monkeypatch):
    from labs.export import quantization

    def spoil(proto, batches, options):
        made = onnx.ModelProto()
        made.CopyFrom(proto)
        made.graph.node[0].input[1] = "nothing"
        return made

    monkeypatch.setattr(quantization, "_quantized", spoil)
    with pytest.raises(QuantizationError, match=r"does not run what came of it: .*nothing"):
        quantize(upsampler[2], tmp_path / "up8.onnx")
    assert not (tmp_path / "up8.onnx").exists()


@pytest.mark.parametrize("keep", [[], ["out"], ["table"]])
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_weight_that_layers_share_is_quantised_for_each(tmp_path, keep, calibrated):
    model, i = TiedTable().eval(), torch.arange(20).reshape(4, 5)
    path = to_onnx(model, i, tmp_path / "m.onnx", BATCH)
    data = [i] if calibrated else None
    small = quantize(path, tmp_path / "q.onnx", data, keep=keep)
    with torch.no_grad():
        expected = model(i)
    error = (session(small)(i)[0] - expected).norm() / expected.norm()
    assert error < 0.05
    assert parity(model, path, [i]).ok  # the float file is as it was


@pytest.mark.parametrize("calibrated", [False, True])
def test_weights_have_one_scale_per_output_channel(tmp_path, calibrated):
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[1.0], [0.01], [100.0]]))
    path = to_onnx(layer.eval(), torch.rand(2, 6), tmp_path / "m.onnx", BATCH)
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    small = quantize(path, tmp_path / "q.onnx", [x] if calibrated else None)
    largest = layer.weight.abs().amax(1)
    scales = [
        torch.tensor(onnx.numpy_helper.to_array(value))
        for value in onnx.load(small).graph.initializer
        if "scale" in value.name and list(value.dims) == [3] and "bias" not in value.name
    ]
    assert len(scales) == 1
    # Symmetric 8-bit integers reach 127; ONNX Runtime may leave a bit free in a product.
    assert any(torch.allclose(scales[0], largest / top, rtol=0.05) for top in (127, 127.5, 63.5))
