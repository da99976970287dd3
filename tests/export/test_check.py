"""Check files: good ones, folded batches, sizes that are fixed, and files that are broken."""

import pytest
import torch
from torch import nn

from labs.export import check, onnx_file, to_onnx
from tests.models import FoldedBatch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

BATCH = {0: "batch"}


def test_a_good_file_is_run_with_other_sizes(exported):
    report = check(exported[1], dynamic=["batch", "height", "width"])
    assert report.ok
    assert report.problems == ()
    tried = {"batch=1", "batch=3", "batch=5", "height=48", "width=48"}
    assert tried <= set(report.table()["what"])
    assert report.inputs == {"x": ("batch", 1, "height", "width")}
    assert "linear [5, 4]" in repr(report)
    assert report.opset >= 18


def test_it_tries_the_sizes_that_are_asked_for(exported):
    report = check(exported[1], sizes={"height": [7, 9]})
    assert {"height=7", "height=9"} <= {finding.what for finding in report.findings}
    with pytest.raises(KeyError, match=r"no dimension 'hight'; there are batch, height, width"):
        check(exported[1], sizes={"hight": [7]})


def test_it_finds_the_folded_batch(tmp_path):
    path = to_onnx(FoldedBatch().eval(), torch.rand(2, 4), tmp_path / "m.onnx", BATCH)
    report = check(path)
    assert not report.ok
    assert any(
        "batch=5: the batch is folded" in line and "[1, 20]" in line for line in report.problems
    )


def test_it_finds_a_batch_that_was_never_dynamic(tmp_path):
    path = to_onnx(nn.Linear(4, 3).eval(), torch.rand(2, 4), tmp_path / "m.onnx")
    assert check(path).ok
    (problem,) = check(path, dynamic=["batch"]).problems
    assert problem == "batch is dynamic: the inputs are input [2, 4]"


def test_it_finds_a_batch_that_is_dynamic_in_name_only(tmp_path):
    # As the dynamic_axes of old exporters did: the label is put on, the graph stays fixed.
    path = to_onnx(nn.Flatten().eval(), torch.rand(2, 4, 3), tmp_path / "m.onnx")
    model = onnx_file.read(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.node[:], model.graph.value_info[:]
    shape = onnx.numpy_helper.from_array(torch.tensor([2, 12]).numpy(), "shape")
    model.graph.initializer.append(shape)
    names = ["x"], [model.graph.output[0].name]
    names = [model.graph.input[0].name, "shape"], names[1]
    model.graph.node.append(onnx.helper.make_node("Reshape", *names))
    onnx_file.write(model, path)
    report = check(path)
    assert any("batch=1: does not run" in line or "shapes" in line for line in report.problems)


def test_it_reports_a_broken_graph_and_does_not_raise(path):
    model = onnx_file.read(path)
    model.graph.node[1].input[0] = "nobody_makes_this"
    onnx_file.write(model, path)
    report = check(path)
    assert not report.ok
    assert report.problems[0].startswith("format: ValidationError")
