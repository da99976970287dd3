"""Run files: choose a provider, time them, make them small, draw them."""

import importlib
import shutil
from types import SimpleNamespace

import pytest
import torch

from labs.export import (
    benchmark,
    check,
    compare_scores,
    contenders,
    draw,
    layers,
    onnx_file,
    parity,
    quantize,
    session,
)
from labs.export.session import CPU, CUDA, TENSORRT

ort = pytest.importorskip("onnxruntime")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2))


def test_a_session_is_called_like_the_model(exported):
    run = session(exported[1], [CPU], threads=1)
    with torch.no_grad():
        torch.testing.assert_close(run(X)[0], exported[0](X))
    assert (run.provider, run.device, run.fallback, run.threads) == (CPU, "cpu", (), 1)
    assert run.runtime.get_session_options().intra_op_num_threads == 1
    assert run.table().set_index("what")["value"]["outputs"] == "linear"
    with pytest.raises(TypeError, match=r"expected 1 tensors \(x\), got 2"):
        run(X, X)


@no_gpu
def test_a_session_says_in_one_line_why_it_falls_back(exported, capfd):
    run = session(exported[1], [TENSORRT, CUDA])
    assert run.provider == CPU
    assert [line.partition(":")[0] for line in run.fallback] == [TENSORRT, CUDA]
    assert all("\n" not in line and len(line) > len(CUDA) + 5 for line in run.fallback)
    assert CUDA in repr(run)
    assert capfd.readouterr() == ("", "")


def test_a_session_refuses_what_it_cannot_do(exported, tmp_path):
    assert "not in this build" in session(exported[1], ["FastExecutionProvider"]).fallback[0]
    with pytest.raises(ValueError, match="threads >= 1, got 0"):
        session(exported[1], threads=0)
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        session(tmp_path / "none.onnx")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_session_computes_on_the_gpu(exported):
    run = session(exported[1])
    assert (run.provider, run.fallback) == (CUDA, ())
    with torch.no_grad():
        torch.testing.assert_close(run(X)[0], exported[0](X), rtol=1e-2, atol=1e-3)


def test_a_benchmark_times_each_in_every_round(exported):
    calls = []
    threads = torch.get_num_threads()
    models = {
        "torch": exported[0],
        "onnx": exported[1],
        "slow": lambda x: calls.append(torch.get_num_threads()) or sum(range(300_000)),
        "fails": lambda x: 1 / 0,
    }
    result = benchmark(models, X, rounds=5, warmup=2, threads=1)
    table = result.table().set_index("name")
    assert table["n"].to_dict() == {"torch": 5, "onnx": 5, "slow": 5, "fails": 0}
    assert calls == [1] * 7
    assert torch.get_num_threads() == threads
    assert table["why_not"]["fails"] == "ZeroDivisionError: division by zero"
    assert table["ratio"]["torch"] == 1
    assert (table["median_ms"] <= table["p90_ms"])[:3].all()
    assert result["slow"].ratio > 1
    assert set(table["threads"]) == {1}
    assert "fails: did not run" in repr(result)
    with pytest.raises(KeyError, match="no contender 'x'; there are torch, onnx"):
        result["x"]


def test_a_ratio_is_the_median_of_the_pairs(monkeypatch):
    """Two contenders, three rounds: the medians say 3 / 2, the median of the pairs says 2."""
    seconds = {"first": [1.0, 2.0, 5.0], "second": [2.0, 3.0, 15.0]}
    taken = {name: iter(values) for name, values in seconds.items()}
    now = [0.0]

    def contender(name):
        def call(x):
            now[0] += next(taken[name], 0.0)

        return call

    module = importlib.import_module("labs.export.benchmark")  # the function hides its name
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    models = {name: contender(name) for name in seconds}
    for name in seconds:  # the call of the warm-up takes no time
        taken[name] = iter([0.0, *seconds[name]])
    result = benchmark(models, X, rounds=3, warmup=1)
    assert result["second"].median_ms / result["first"].median_ms == pytest.approx(1.5)
    assert result["second"].ratio == pytest.approx(2.0)
    assert result["first"].ratio == 1


@no_gpu
def test_a_row_for_cuda_never_reads_as_the_cpu(exported):
    asked = {"onnx CUDA": session(exported[1], [CUDA]), "both": session(exported[1], [TENSORRT])}
    result = benchmark({"torch": exported[0], **asked}, X, rounds=1, warmup=1)
    assert [timing.device for timing in result.timings] == ["cpu", CUDA, TENSORRT]
    assert [timing.n for timing in result.timings] == [1, 0, 0]
    assert all(timing.why_not for timing in result.timings[1:])


@pytest.mark.slow
def test_a_benchmark_of_every_way_says_which_cannot_run(exported):
    result = benchmark(contenders(*exported), X, rounds=2, warmup=1)
    assert [timing.name for timing in result.timings] == [
        "torch eager", "torch compiled", "onnx CPU", "onnx CUDA", "onnx TensorRT",
    ]  # fmt: skip
    assert all(bool(timing.n) != bool(timing.why_not) for timing in result.timings)
    assert result["torch eager"].n == result["onnx CPU"].n == 2


def test_a_benchmark_refuses_what_cannot_be_timed(exported):
    with pytest.raises(ValueError, match="each at least 1, got 0, 30"):
        benchmark({}, X)
    with pytest.raises(ValueError, match="benchmark: expected every module in eval mode"):
        benchmark({"torch": torch.nn.Dropout()}, X)


def error_against(reference):
    return lambda predict: ((predict(X) - reference).norm() / reference.norm()).item()


def test_static_int8_is_smaller_and_close(exported, tmp_path, capfd):
    model, path = exported
    small = quantize(path, tmp_path / "int8.onnx", [X[:1], X[1:]])
    with torch.no_grad():
        scores = compare_scores(
            {"torch": model, "float32": path, "int8": small}, error_against(model(X))
        )
    error = scores.table().set_index("name")["score"]
    assert error["torch"] == 0
    assert error["float32"] < 1e-5 < error["int8"] < 0.1
    assert scores.scores[2].delta == error["int8"]
    assert check(small, dynamic=["batch"]).ok
    assert {t.op_type for t in nodes(small)} >= {"QuantizeLinear", "DequantizeLinear"}
    assert capfd.readouterr() == ("", "")


def test_dynamic_int8_leaves_convolutions_alone(exported, tmp_path):
    small = quantize(exported[1], tmp_path / "int8.onnx")
    operators = {node.op_type for node in nodes(small)}
    assert "Conv" in operators
    assert "MatMulInteger" in operators
    with torch.no_grad():
        assert error_against(exported[0](X))(lambda x: session(small, [])(x)[0]) < 0.05


def test_a_kept_layer_stays_in_float32(exported, tmp_path):
    kept = quantize(exported[1], tmp_path / "int8.onnx", keep=["head"])
    assert "MatMulInteger" not in {node.op_type for node in nodes(kept)}
    assert parity(*exported[:1], kept, [X]).ok
    with pytest.raises(KeyError, match=r"no node of layer 'heads'.*head"):
        quantize(exported[1], tmp_path / "int8.onnx", keep=["heads"])


def test_quantize_refuses_what_it_cannot_use(exported, tmp_path):
    target = tmp_path / "int8.onnx"
    with pytest.raises(TypeError, match="leave labels out"):
        quantize(exported[1], target, [(X, torch.zeros(3))])
    with pytest.raises(ValueError, match="got none"):
        quantize(exported[1], target, [])
    with pytest.raises(ValueError, match="another file"):
        quantize(exported[1], exported[1])
    with pytest.raises(ValueError, match="at least one model"):
        compare_scores({}, len)
    assert not target.exists()


def nodes(path):
    return pytest.importorskip("onnx").load(path).graph.node


def test_a_drawing_has_a_box_for_each_layer(exported):
    pytest.importorskip("graphviz")
    source = draw(exported[1]).source
    assert '"layer blocks" [label="blocks\n3 Conv, 3 Relu' in source
    assert '"value x" -> "layer blocks"' in source
    assert '"layer head" -> "value linear"' in source
    assert "x [batch, 1, height, width]" in source


def test_a_drawing_opens_layers_as_deep_as_asked(exported):
    pytest.importorskip("graphviz")
    assert '"layer blocks.0" -> "layer blocks.1"' in draw(exported[1], depth=2).source
    inside = draw(exported[1], layer="blocks.1").source
    assert '"layer blocks.1.norm" -> "layer blocks.1.relu"' in inside
    assert "blocks.0" not in inside
    with pytest.raises(KeyError, match="no node of layer 'stage'"):
        draw(exported[1], layer="stage")
    with pytest.raises(ValueError, match="depth >= 1, got 0"):
        draw(exported[1], depth=0)


def test_a_drawing_names_the_arithmetic_on_sizes(path):
    proto = onnx_file.read(path)
    (noted,) = [e for e in proto.graph.node[0].metadata_props if e.key == layers._SCOPES]
    noted.value = str(["_empty_nn_module_stack_from_metadata_hook", "node"])
    onnx_file.write(proto, path)
    pytest.importorskip("graphviz")
    assert '[label="sizes\nConv"]' in draw(path).source


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_a_drawing_is_a_picture_where_graphviz_is(exported):
    pytest.importorskip("graphviz")
    assert b"<svg" in draw(exported[1]).pipe(format="svg")
