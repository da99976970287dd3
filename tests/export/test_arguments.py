"""Export models that take keywords and return names, and run what came of it."""

import numpy as np
import pytest
import torch

from labs.export import (
    ParityError,
    benchmark,
    compare_layers,
    onnx_file,
    parity,
    quantize,
    session,
    to_onnx,
)
from labs.export.session import CPU
from tests.models import LooseKeywords, MaskedRows, NamesOutputs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

BATCH = {0: "batch"}


def rows(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=draw), torch.rand(n, 4, generator=draw)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Return the model and its file; its example has the keywords the wrong way round."""
    x, mask = rows(2)
    path = tmp_path_factory.mktemp("masked") / "m.onnx"
    given = {"double": True, "mask": mask, "x": x}
    return MaskedRows().eval(), to_onnx(MaskedRows().eval(), (), path, BATCH, kwargs=given)


def test_keywords_are_inputs_with_their_own_names_and_dynamic_sizes(masked):
    assert session(masked[1], []).inputs == {"x": ("batch", 4), "mask": ("batch", 4)}
    noted = onnx_file.note(onnx_file.read(masked[1]))
    assert noted.arguments == {"x": ["x"], "mask": ["mask"], "double": []}
    assert noted.fixed == {"double": "True"}


def test_outputs_have_the_names_of_the_dict_and_of_what_is_in_it(masked):
    assert session(masked[1], []).outputs == ("boxes", "aux.score", "levels.0")


def test_a_session_takes_the_keywords_in_any_order(masked):
    run, (x, mask) = session(masked[1], [CPU]), rows(5, 1)
    with torch.no_grad():
        expected = masked[0](x, mask=mask, double=True)["boxes"]
    for got in (run(mask=mask, x=x), run(x, mask=mask), run(x, mask), run(x, mask=mask.numpy())):
        torch.testing.assert_close(got[0], expected)


def test_a_session_says_which_keyword_it_does_not_take(masked):
    run, (x, mask) = session(masked[1], [CPU]), rows(5, 1)
    with pytest.raises(TypeError, match=r"among x, mask, double, got 'maks'; did you mean 'mask'"):
        run(x, maks=mask)
    with pytest.raises(TypeError, match=r"exported with double=True and keeps it, got double=Fal"):
        run(x, mask=mask, double=False)
    with pytest.raises(TypeError, match=r"expected 1 tensors \(x\), got 0"):
        run(mask=mask)


def test_parity_layers_benchmark_and_calibration_take_keywords(masked, tmp_path):
    model, path = masked
    x, mask = rows(5, 1)
    named = {"mask": mask, "double": True}
    assert len(parity(model, path, [x, x], kwargs=named).rows) == 6
    every = [{"mask": mask, "x": x, "double": True}, {"mask": mask + 1, "x": x, "double": True}]
    assert parity(model, path, [(), ()], kwargs=every).ok
    assert compare_layers(model, path, x, named).first is None
    result = benchmark({"torch": model, "onnx": path}, x, rounds=2, warmup=1, kwargs=named)
    assert [timing.n for timing in result.timings] == [2, 2]
    slight = mask / 100  # were x calibrated with this range, nothing of it would be left
    small = quantize(path, tmp_path / "small.onnx", [{"mask": slight, "x": x}])
    torch.testing.assert_close(
        session(small)(x, slight)[1], session(path)(x, slight)[1], atol=0.05, rtol=0
    )
    with pytest.raises(ValueError, match=r"one dict of kwargs per input, got 2 for 1"):
        parity(model, path, [x], kwargs=every)
    with pytest.raises(TypeError, match="expected kwargs like"):
        parity(model, path, [x], kwargs=[x])


def test_parity_names_the_layer_of_a_model_with_keywords(masked):
    other, (x, mask) = MaskedRows().eval(), rows(5, 1)
    with torch.no_grad():
        other.layer.weight.mul_(1.1)
    with pytest.raises(ParityError, match="first layer that differs is 'layer'"):
        parity(other, masked[1], [x], kwargs={"mask": mask, "double": True})


def test_dynamic_sizes_are_named_per_keyword(tmp_path):
    x, mask = rows(2)
    names = {"x": {0: "n"}, "mask": {0: "n"}}
    path = to_onnx(MaskedRows().eval(), x, tmp_path / "m.onnx", names, kwargs={"mask": mask})
    assert session(path, []).inputs == {"x": ("n", 4), "mask": ("n", 4)}
    with pytest.raises(TypeError, match=r"'maks'.*takes x, mask; did you mean 'mask'"):
        to_onnx(MaskedRows().eval(), x, path, {"maks": BATCH}, kwargs={"mask": mask})


@pytest.mark.parametrize(
    ("example", "kwargs", "message"),
    [
        pytest.param({"x": 1, "mask": 2}, None, r"keys \(x, mask\).*kwargs=that_dict", id="dict"),
        pytest.param("x", {"maks": "x"}, r"forward\(x, bias=None.*did you mean 'mask'", id="typo"),
        pytest.param("x", {"x": "x", "mask": "x"}, "multiple values for argument 'x'", id="twice"),
        pytest.param("x", ["x"], "expected kwargs like .* got list", id="list"),
    ],
)
def test_it_says_what_forward_takes(tmp_path, example, kwargs, message):
    x = torch.rand(2, 4)
    fill = lambda value: dict.fromkeys(value, x) if isinstance(value, dict) else value  # noqa: E731
    example = x if example == "x" else fill(example)
    with pytest.raises(TypeError, match=message):
        to_onnx(MaskedRows().eval(), example, tmp_path / "m.onnx", kwargs=fill(kwargs))
    assert not list(tmp_path.iterdir())


def test_loose_arguments_keep_their_places(tmp_path):
    a, b = rows(2)
    path = to_onnx(
        LooseKeywords().eval(), a, tmp_path / "m.onnx", BATCH, kwargs={"two": b, "one": a}
    )
    a, b = rows(3, 2)
    torch.testing.assert_close(session(path)(a, one=a, two=b)[0], 2 * a - 2 * b)


OWN = {
    "crossed": ("sigmoid", "exp"),
    "as input": ("x_out", "y"),
    "passed on": ("x", "y"),
    "twice": ("a", "b"),
    "named tuple": ("left", "right.deep"),
    "in a tuple": ("exp", "1.b"),
    "with none": ("a", "b"),
    "plain": ("exp", "sigmoid"),
    "whole keys": ("0", "1"),
    "the same path": ("a.b", "a.b_out"),
}


@pytest.mark.parametrize("kind", OWN)
def test_outputs_keep_the_names_of_their_structure(tmp_path, kind):
    model = NamesOutputs(kind).eval()
    path = to_onnx(model, torch.rand(2, 4), tmp_path / "m.onnx", BATCH)
    onnx.checker.check_model(str(path), full_check=True)
    assert session(path, [CPU]).outputs == OWN[kind]
    assert parity(model, path, [rows(3)[0]]).ok


def test_outputs_that_are_asked_for_must_fit(tmp_path):
    model, x = NamesOutputs("plain").eval(), torch.rand(2, 4)
    path = to_onnx(model, x, tmp_path / "m.onnx", outputs=["sigmoid", "exp"])
    assert session(path, [CPU]).outputs == ("sigmoid", "exp")
    torch.testing.assert_close(session(path, [CPU])(x)[0], x.exp())
    for names, reason in ((["a"], "2 different names"), (["a", "a"], ""), (["x", "a"], "an input")):
        with pytest.raises(ValueError, match=f"expected as outputs.*{reason}"):
            to_onnx(model, x, tmp_path / "other.onnx", outputs=names)
    assert not (tmp_path / "other.onnx").exists()


def test_a_session_takes_numpy_arrays(exported):
    run, x = session(exported[1], [CPU]), np.random.default_rng(0).random((3, 1, 16, 16))
    torch.testing.assert_close(
        run(x.astype("float32"))[0], run(torch.from_numpy(x).float())[0], atol=0, rtol=0
    )
    flipped = x.astype("float32")[..., ::-1]  # negative strides
    torch.testing.assert_close(run(flipped)[0], run(torch.tensor(flipped.copy()))[0])
    with pytest.raises(TypeError, match=r"'x': expected float32, got float64.*astype\('float32'\)"):
        run(x)
    with pytest.raises(TypeError, match=r"expected float32, got int64; convert"):
        run(torch.zeros(3, 1, 16, 16, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"expected 1 tensors \(x\), got 0"):
        run([[0.0]])
