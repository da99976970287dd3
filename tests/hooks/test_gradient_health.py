import math

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from labs.hooks import gradient_health
from tests.models import DeadReLU, FrozenBackbone, NoParameters, TwoConvs, UnusedBranch


def with_gradients(**gradients):
    """Return a model with parameters of ones and the gradients given; None is no gradient."""
    model = nn.Module()
    for name, gradient in gradients.items():
        parameter = nn.Parameter(torch.ones(4))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        model.register_parameter(name, parameter)
    return model


def test_it_tells_the_ways_to_be_ill_apart():
    report = gradient_health(
        with_gradients(
            well=[0.0, 3.0, 0.0, 4.0],
            absent=None,
            zero=[0.0] * 4,
            nan=[1.0, float("nan"), 0.0, 0.0],
            infinite=[1.0, -float("inf"), 0.0, 0.0],
            tiny=[1e-9, 0.0, 0.0, 0.0],
            huge=[0.0, 0.0, 0.0, 1e6],
        )
    )
    assert report.missing == ("absent",)
    assert report.dead == ("zero",)
    assert report.non_finite == ("nan", "infinite")
    assert report.vanishing == ("tiny",)
    assert report.exploding == ("huge",)
    assert report.frozen == ()
    assert report.named("ok") == ("well",)
    row = report.table().set_index("parameter").loc["well"]
    assert row.tolist() == [(4,), 5.0, 2.0, 2.5, 0.5, "ok"]
    assert repr(report) == (
        "GradientHealth(7 parameters: 1 ok, 1 missing, 1 dead, 2 non-finite, 1 vanishing, "
        "1 exploding)"
    )


@pytest.mark.parametrize(
    ("thresholds", "verdict"),
    [
        ({}, "ok"),
        ({"vanishing": 5.0}, "ok"),
        ({"vanishing": 5.1}, "vanishing"),
        ({"exploding": 5.0}, "ok"),
        ({"exploding": 4.9}, "exploding"),
    ],
)
def test_the_thresholds_are_on_the_norm_and_exclusive(thresholds, verdict):
    report = gradient_health(with_gradients(p=[0.0, 3.0, 0.0, 4.0]), **thresholds)
    assert report.named(verdict) == ("p",)


def test_norms_equal_those_of_torch_and_nothing_is_touched(no_trace):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    nn.functional.cross_entropy(model(torch.rand(4, 3, 64, 64)), torch.arange(4)).backward()
    with no_trace(model):
        report = gradient_health(model)
    table = report.table().set_index("parameter")
    assert list(table.index) == [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        # In float64: torch's own float32 norm of two million values is off by 2e-4.
        row, norm = table.loc[name], np.linalg.norm(p.detach().double().flatten())
        assert row["weight_norm"] == pytest.approx(norm)
        assert row["grad_norm"] == pytest.approx(np.linalg.norm(p.grad.double().flatten()))
        assert norm == 0 or row["ratio"] == pytest.approx(row["grad_norm"] / norm)
        assert row["shape"] == tuple(p.shape)
    assert set(table["verdict"]) == {"ok"}


def test_a_zero_head_hides_the_loss_from_everything_below():
    model = torchvision.models.vit_b_16(weights=None, image_size=32)  # its head starts at zero
    model(torch.rand(1, 3, 32, 32))[:, 3].sum().backward()
    report = gradient_health(model)
    assert report.named("ok") == ("heads.head.weight", "heads.head.bias")
    assert len(report.dead) == len(report.parameters) - 2


def test_twenty_sigmoids_make_the_gradient_vanish_from_the_input_on():
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers)
    model(torch.rand(8, 16)).square().mean().backward()
    report = gradient_health(model)
    assert report.vanishing[:2] == ("0.weight", "0.bias")
    assert "38.weight" not in report.vanishing


def test_a_branch_outside_the_graph_is_missing():
    model = UnusedBranch()
    model(torch.rand(2, 3)).sum().backward()
    assert gradient_health(model).missing == ("unused.weight", "unused.bias")


def test_a_dead_relu_is_dead_below_and_alive_above():
    model = DeadReLU()
    model(torch.rand(2, 3)).sum().backward()
    report = gradient_health(model)
    assert report.dead == ("first.weight", "first.bias", "second.weight")
    assert report.named("ok") == ("second.bias",)
    assert report.table()["zeros"].tolist() == [1, 1, 1, 0]


def test_frozen_is_not_missing():
    model = FrozenBackbone()
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    report = gradient_health(model)
    assert report.missing == ()
    assert len(report.frozen) == 4
    assert report.named("ok") == ("head.weight", "head.bias")


def test_before_backward_it_says_that_there_is_no_gradient():
    report = gradient_health(TwoConvs())
    assert report.missing == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "was backward() called?" in repr(report)
    assert math.isnan(report.parameters[0].grad_norm)


def test_no_parameters_give_an_empty_table_with_its_columns():
    report = gradient_health(NoParameters())
    assert report.table().columns.tolist() == [
        "parameter", "shape", "grad_norm", "weight_norm", "ratio", "zeros", "verdict"
    ]  # fmt: skip
    assert len(report.table()) == 0
    assert repr(report) == "GradientHealth(0 parameters: none)"


def test_half_precision_does_not_overflow_and_tiny_values_do_not_become_zero():
    model = nn.Linear(2, 1, bias=False)
    model.half()
    model.weight.grad = torch.full((1, 2), 60000.0, dtype=torch.float16)
    assert gradient_health(model).parameters[0].grad_norm == pytest.approx(60000 * 2**0.5, rel=1e-3)
    model.float()
    model.weight.grad = torch.full((1, 2), 1e-30)
    report = gradient_health(model)
    assert report.vanishing == ("weight",)
    assert report.parameters[0].grad_norm == pytest.approx(1e-30 * 2**0.5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_sparse_gradients_empty_parameters_and_zero_weights():
    model = nn.ModuleDict({"words": nn.Embedding(5, 2, sparse=True), "none": nn.Linear(0, 2)})
    nn.init.zeros_(model["none"].bias)
    (model["words"](torch.tensor([1])).sum() + model["none"](torch.zeros(1, 0)).sum()).backward()
    table = gradient_health(model).table().set_index("parameter")
    assert table.loc["words.weight", "zeros"] == 0.8
    assert table.loc["words.weight", "grad_norm"] == pytest.approx(2**0.5)
    assert table["verdict"].tolist() == ["ok"] * 3
    assert math.isnan(table.loc["none.bias", "ratio"])


def test_a_scaled_loss_is_judged_as_if_it_were_not_scaled(no_trace):
    torch.manual_seed(0)
    model, x = UnusedBranch(), torch.rand(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().sum()
    loss.backward(retain_graph=True)
    expected = gradient_health(model)
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.scale(loss).backward()
    assert gradient_health(model).exploding == ("used.weight", "used.bias")
    with no_trace(model):
        found = gradient_health(model, scale=scaler)
    pd.testing.assert_frame_equal(found.table(), expected.table())
    pd.testing.assert_frame_equal(gradient_health(model, scale=2.0**16).table(), found.table())
    assert found.missing == ("unused.weight", "unused.bias")
    scaler.unscale_(optimizer)
    pd.testing.assert_frame_equal(gradient_health(model).table(), expected.table())


def test_wrapped_models_go_by_the_plain_names(one_rank):
    model = UnusedBranch()
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    wrapped(torch.rand(2, 3)).sum().backward()
    expected = gradient_health(model)
    assert expected.missing == ("unused.weight", "unused.bias")
    for same in (wrapped, nn.DataParallel(model), torch.compile(model, backend="eager")):
        pd.testing.assert_frame_equal(gradient_health(same).table(), expected.table())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_cannot_be_is_refused(scale):
    with pytest.raises(ValueError, match="expected a scale above 0, got"):
        gradient_health(NoParameters(), scale=scale)


@pytest.mark.parametrize("wrong", [{"vanishing": -1.0}, {"vanishing": 10.0, "exploding": 1.0}])
def test_thresholds_the_wrong_way_round_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 0 <= vanishing <= exploding, got"):
        gradient_health(NoParameters(), **wrong)


def norms(*values):
    """Return a model whose parameters have gradients of these norms, in this order."""
    return with_gradients(**{f"p{i}": [value, 0.0, 0.0, 0.0] for i, value in enumerate(values)})


@pytest.mark.parametrize(
    ("values", "vanishing"),
    [
        pytest.param((1e-9,), ("p0",), id="alone"),
        pytest.param((1e-9, 1e-9, 1e-9), ("p0", "p1", "p2"), id="all small"),
        pytest.param((1e-9, 1e-7, 1e-3, 1.0), ("p0", "p1"), id="small in front"),
        pytest.param((1.0, 1e-7, 1e-7, 1e-7, 1.0), (), id="most are small, and the front is not"),
        pytest.param((1.0, 1e-7, 1e-14, 1e-7, 1.0), ("p2",), id="smaller than they"),
        pytest.param((1.0, 1e-7, 1.0, 1.0), ("p1",), id="few are small"),
        pytest.param((1.0, 1e-5, 1e-5), (), id="not small"),
        pytest.param((100.0, 5e-5, 100.0), (), id="small only beside large ones"),
    ],
)
def test_small_is_vanishing_in_front_or_beside_the_median(values, vanishing):
    assert gradient_health(norms(*values)).vanishing == vanishing


def test_layers_with_a_scale_of_a_millionth_are_not_ill():
    torch.manual_seed(0)
    blocks = torchvision.models.convnext.CNBlockConfig
    model = torchvision.models.ConvNeXt([blocks(8, 16, 1), blocks(16, None, 2)], num_classes=4)
    nn.functional.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    report = gradient_health(model)
    assert (report.table()["grad_norm"] < 1e-6).mean() > 0.5
    assert report.vanishing == ()


def test_a_deep_network_whose_front_gets_nothing_is_ill_in_front():
    torch.manual_seed(0)
    layers = [(nn.Conv2d(8 if i else 1, 8, 3, padding=1), nn.Sigmoid()) for i in range(8)]
    model = nn.Sequential(*[one for pair in layers for one in pair], nn.Flatten())
    model.append(nn.Linear(8 * 14 * 14, 10))
    nn.functional.cross_entropy(model(torch.rand(8, 1, 14, 14)), torch.arange(8)).backward()
    report = gradient_health(model)
    assert report.vanishing[:4] == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "14.weight" not in report.vanishing


@pytest.mark.parametrize("form", ["sparse", "uncoalesced"])
@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_sparse_gradient_has_the_norm_of_the_dense_one(form):
    table = nn.Embedding(1000, 3, sparse=True)
    words = torch.tensor([5, 5, 7])
    table(words).square().sum().backward()
    if form == "sparse":
        table.weight.grad = table.weight.grad.coalesce()
    expected = table.weight.grad.to_dense().norm().item()
    (row,) = gradient_health(table, scale=2.0).parameters
    assert row.grad_norm == pytest.approx(expected / 2)
    assert row.zeros == 0.998
    table.weight.grad = torch.sparse_coo_tensor([[5]], torch.full((1, 3), torch.nan), (1000, 3))
    assert gradient_health(table).non_finite == ("weight",)


@pytest.mark.parametrize("wrong", [[nn.Parameter(torch.ones(1))], nn.Linear, None])
def test_what_is_no_module_is_named(wrong):
    with pytest.raises(TypeError, match=r"expected an nn.Module, got"):
        gradient_health(wrong)
    with pytest.raises(TypeError, match="a number or a GradScaler as scale, got a str"):
        gradient_health(NoParameters(), scale="2")
