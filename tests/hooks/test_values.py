import math

import pandas as pd
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from labs.hooks import capture, first_bad, gradient_health
from labs.hooks.values import _shape_of, describe, norm_of, numbers
from tests.models import Returns

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of prototypes in PyTorch

ONES = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
SAID = {"mean": 1.0, "std": 1.5**0.5, "min": 0.0, "max": 3.0, "zeros": 0.5}
SAME = {
    "float32": lambda: ONES,
    "transposed": lambda: ONES.t(),
    "bfloat16": lambda: ONES.bfloat16(),
    "float8_e4m3fn": lambda: ONES.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda: ONES.to(torch.float8_e5m2),
    "int8": lambda: ONES.to(torch.int8),
    "uint16": lambda: ONES.to(torch.uint16),
    "quantised": lambda: torch.quantize_per_tensor(ONES, 0.5, 7, torch.quint8),
    "by channel": lambda: torch.quantize_per_channel(
        ONES, torch.tensor([0.5, 1.0]), torch.tensor([0, 0]), 0, torch.qint8
    ),
    "sparse": lambda: ONES.to_sparse(),
    "sparse, not coalesced": lambda: torch.sparse_coo_tensor(
        [[0, 1, 1], [0, 1, 1]], [1.0, 1, 2], (2, 2)
    ),
    "compressed": lambda: ONES.to_sparse_csr(),
    "blocks": lambda: ONES.to_sparse_bsr((1, 1)),
    "mkldnn": lambda: ONES.to_mkldnn(),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_numbers_are_described_alike_in_every_form(name):
    row = describe(SAME[name]())
    assert row.pop("shape") == (2, 2)
    assert row == pytest.approx(SAID)
    assert norm_of(SAME[name]()) == pytest.approx(10**0.5)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_of_a_nested_tensor_all_parts_count_and_the_size_that_differs_is_none(layout):
    nested = torch.nested.nested_tensor([torch.ones(1), torch.tensor([0.0, 3.0, 0.0])])
    if layout is torch.jagged:
        nested = torch.nested.as_nested_tensor(list(nested.unbind()), layout=layout)
    row = describe(nested)
    assert row.pop("shape") == _shape_of(nested) == (2, None)
    assert row == pytest.approx(SAID)


def test_of_complex_numbers_there_is_the_spread_and_of_truths_everything():
    half = torch.tensor([0.0, 2j], dtype=torch.complex64)
    assert describe(half) == {"shape": (2,), "std": 1.0, "zeros": 0.5}
    assert describe(half.to(torch.complex32)) == {"shape": (2,), "std": 1.0, "zeros": 0.5}
    truths = describe(torch.tensor([True, False]))
    assert truths == {"shape": (2,), "mean": 0.5, "std": 0.5, "min": 0, "max": 1, "zeros": 0.5}


def fake():
    with FakeTensorMode():
        return torch.ones(2, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 3, device="meta"),
        fake,
        lambda: torch.empty(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        lambda: torch.ones(2, 3, dtype=torch.uint8).view(torch.bits8),
    ],
    ids=["meta", "fake", "float4", "bits"],
)
def test_where_there_are_no_values_there_is_the_shape(make):
    assert describe(make()) == {"shape": (2, 3)}
    assert numbers(make()) is None
    assert math.isnan(norm_of(make()))


def test_of_nothing_there_is_the_shape():
    for empty in (torch.zeros(0, 3), torch.zeros(0, 3).to_sparse()):
        assert describe(empty) == {"shape": (0, 3)}
        assert norm_of(empty) == 0
    zeros = describe(torch.zeros(2, 3).to_sparse())
    assert (zeros["zeros"], zeros["min"], zeros["max"]) == (1, 0, 0)


@pytest.mark.parametrize("name", [*SAME, "meta"])
def test_the_table_of_maps_has_a_row_for_it_and_no_error(name):
    odd = ONES.to("meta") if name == "meta" else SAME[name]()
    model = nn.Sequential(Returns(lambda x: odd), Returns(lambda x: ONES))
    with capture(model, "0", "1") as maps:
        model(torch.zeros(1))
    table = maps.table().set_index("layer")
    assert table.loc["1", "mean"] == 1
    assert table.loc["0", "shape"] == (2, 2)
    assert pd.isna(table.loc["0", "mean"]) == (name == "meta")
    assert first_bad(model, torch.zeros(1)) is None


NAN = torch.tensor([[1.0, 0.0], [0.0, float("nan")]])


@pytest.mark.parametrize(
    ("spoil", "values"),
    [
        (lambda: NAN.to(torch.float8_e4m3fn), 4),
        (lambda: NAN.to_sparse(), 4),
        (lambda: NAN.to_sparse_csr(), 4),
        (lambda: torch.nested.nested_tensor([NAN, NAN[:1]]), 6),
        (lambda: torch.nested.nested_tensor([NAN, NAN[:1]], layout=torch.jagged), 6),
        (lambda: NAN.to(torch.complex64), 4),
    ],
    ids=["float8", "sparse", "compressed", "nested", "jagged", "complex"],
)
def test_a_nan_is_found_in_every_form(spoil, values):
    model = nn.Sequential(nn.Identity(), Returns(lambda x: spoil()), nn.Identity())
    culprit = first_bad(model, torch.zeros(1))
    assert (culprit.name, culprit.nan, culprit.values) == ("1", 1, values)


def test_gradients_are_followed_through_float8_and_out_of_nested_tensors():
    class Root(nn.Module):
        def forward(self, x):
            return torch.nested.as_nested_tensor([x.sqrt(), x[:1]], layout=torch.jagged)

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), Root())
    nn.init.zeros_(model[0].weight)
    assert first_bad(model, torch.ones(2, 2)).name == "2"
    to_float8 = nn.Sequential(nn.Linear(2, 2), Returns(lambda x: x.to(torch.float8_e4m3fn)))
    assert first_bad(to_float8, torch.ones(2, 2)) is None


def test_parameters_of_every_kind_have_a_norm():
    model = nn.Module()
    kinds = ("float32", "int8", "bfloat16", "float8_e4m3fn")
    for name in kinds:
        model.register_parameter(f"of_{name}", nn.Parameter(SAME[name](), requires_grad=False))
    model.wave = nn.Parameter(torch.tensor([3.0, 4j]))
    model.wave.grad = torch.tensor([0, 5j])
    model.absent = nn.Parameter(ONES.to("meta"))
    table = gradient_health(model).table().set_index("parameter")
    norms = table["weight_norm"]
    assert [norms[f"of_{name}"] for name in kinds] == pytest.approx([10**0.5] * 4)
    assert table.loc["wave", ["grad_norm", "weight_norm", "zeros", "verdict"]].tolist() == [
        5, 5, 0.5, "ok"
    ]  # fmt: skip
    assert math.isnan(norms["absent"])
