import gc
import weakref
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from labs.hooks import capture
from tests.models import (
    DataclassOutput,
    DictOutput,
    DrawsNoise,
    FrozenBackbone,
    InplaceAfterConv,
    InplaceAfterView,
    NamedTupleOutput,
    NoParameters,
    ObjectOutput,
    PackedOutput,
    RaisesInForward,
    ResidualInplace,
    ReusedReLU,
    SharedLayer,
    TupleOutput,
    TwoConvs,
    UnusedBranch,
)


@pytest.fixture
def digits():
    torch.manual_seed(0)
    return torch.randn(2, 1, 8, 8)


def test_it_keeps_what_the_layer_returned(digits):
    model = TwoConvs()
    with capture(model, "0", "2") as maps:
        model(digits)
    torch.testing.assert_close(maps["0"], model[0](digits), rtol=0, atol=0)
    torch.testing.assert_close(maps["2"], nn.Sequential(*list(model)[:3])(digits), rtol=0, atol=0)
    assert list(maps) == ["0", "2"]
    assert len(maps) == 2
    assert dict(maps).keys() == {"0", "2"}
    assert repr(maps) == "Maps(layers and their calls: 0 (1), 2 (1))"


def test_an_inplace_layer_afterwards_does_not_change_it(digits):
    model = InplaceAfterConv()
    with capture(model, "0") as maps:
        model(digits)
    torch.testing.assert_close(maps["0"], model[0](digits), rtol=0, atol=0)
    assert maps["0"].min() < 0


def test_gradients_are_those_of_the_output_before_an_inplace_layer(digits):
    model = InplaceAfterConv()
    with capture(model, "0", gradients=True) as maps:
        model(digits).square().sum().backward()
    output = model[0](digits).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[2](output.relu()).square().sum(), output)
    torch.testing.assert_close(maps.gradient("0"), expected)


def test_a_view_that_is_overwritten_has_a_map_and_says_why_no_gradient(digits):
    model = InplaceAfterView()
    with capture(model, "0", "1", gradients=True) as maps:
        model(digits).sum().backward()
    torch.testing.assert_close(maps["1"], model[0](digits).flatten(1), rtol=0, atol=0)
    assert maps.gradient("0").shape == (2, 2, 6, 6)
    with pytest.raises(ValueError, match="a view that an in-place layer overwrites"):
        maps.gradient("1")


def test_gradients_of_an_inplace_sum_are_those_of_the_branch(digits):
    model, x = ResidualInplace(), torch.randn(2, 2, 5, 5)
    with capture(model, "branch", "relu", gradients=True) as maps:
        model(x).sum().backward()
    torch.testing.assert_close(maps.gradient("branch"), (maps["relu"] > 0).float())
    torch.testing.assert_close(maps.gradient("relu"), torch.ones(2, 2, 5, 5))


def test_a_layer_that_runs_twice_gives_both_calls():
    model, x = ReusedReLU(), torch.randn(5, 3)
    with capture(model, "relu", "first", gradients=True) as maps:
        out = model(x)
        out.sum().backward()
    hidden, last = maps["relu"]
    assert hidden.shape == (5, 4)
    torch.testing.assert_close(last, out.detach(), rtol=0, atol=0)
    assert [g.shape for g in maps.gradient("relu")] == [(5, 4), (5, 2)]
    assert maps.calls("first")[0] is maps["first"]


def test_two_forward_passes_are_two_calls(digits):
    model = TwoConvs()
    with capture(model, "0") as maps:
        model(digits[:1])
        model(digits)
    assert [call.shape[0] for call in maps["0"]] == [1, 2]


def test_a_layer_with_two_names_shows_all_its_calls_under_both():
    model, x = SharedLayer(), torch.randn(2, 3)
    with capture(model, "left", "right") as maps:
        model(x)
    assert len(maps["left"]) == len(maps["right"]) == 2


def test_backward_passes_add_up_as_in_grad(digits):
    model = TwoConvs()
    with capture(model, "2", gradients=True) as maps:
        out = model(digits)
        out.sum().backward(retain_graph=True)
        once = maps.gradient("2").clone()
        out.sum().backward()
    torch.testing.assert_close(maps.gradient("2"), 2 * once)


@pytest.mark.parametrize(
    ("model", "read"),
    [
        (TupleOutput(), lambda out: (out[0], type(out) is tuple and out[2] == "a word")),
        (DictOutput(), lambda out: (out["out"], list(out) == ["out", "aux"])),
        (NamedTupleOutput(), lambda out: (out[0].right, out[0]._fields == ("left", "right"))),
        (DataclassOutput(), lambda out: (out.scores, out.size == (8, 8))),
        (PackedOutput(), lambda out: (out.data, hasattr(out, "batch_sizes"))),
        (ObjectOutput(), lambda out: (out.tensors, out.sizes == [(8, 8)])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_structures_are_kept(model, read):
    with capture(model, "1", gradients=True) as maps:
        tensor, _ = read(model(torch.randn(5, 3)))
        tensor.sum().backward()
    kept, as_it_was = read(maps["1"])
    torch.testing.assert_close(kept, tensor.detach(), rtol=0, atol=0)
    assert as_it_was
    assert kept.grad_fn is None
    gradient, _ = read(maps.gradient("1"))
    torch.testing.assert_close(gradient, torch.ones_like(tensor))


def test_tensors_without_gradient_are_none_in_the_structure():
    model = DictOutput()
    with capture(model, "1", gradients=True) as maps:
        model(torch.randn(5, 3))["out"].sum().backward()
    assert maps.gradient("1")["aux"] == [None, None]


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("*.0", ["layer.0", "layer.2.0"]),
        ("layer.[02]", ["layer.0", "layer.2"]),
        ("l*r.2.?", ["layer.2.0", "layer.2.1"]),
        ("*", ["layer", "layer.0", "layer.1", "layer.2", "layer.2.0", "layer.2.1"]),
    ],
)
def test_patterns_stand_for_all_layers_they_match(pattern, layers):
    model = nn.Sequential()
    model.layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Tanh(), nn.ReLU()))
    with capture(model, pattern, "layer.0") as maps:
        model(torch.randn(2, 3))
    assert sorted(maps) == sorted({*layers, "layer.0"})


@pytest.mark.parametrize("gradients", [False, True])
def test_reduce_keeps_only_what_it_makes_of_each_tensor_and_gradient(gradients):
    model, x = DictOutput(), torch.randn(5, 3)
    with capture(model, "0", "1", gradients=True) as full:
        model(x)["out"].square().sum().backward()
    with capture(model, "0", "1", gradients=gradients, reduce=lambda t: t.std()) as maps:
        model(x)["out"].square().sum().backward()
    torch.testing.assert_close(maps["0"], full["0"].std())
    torch.testing.assert_close(maps["1"]["aux"], [full["1"]["aux"][0].std(), None])
    if gradients:
        torch.testing.assert_close(maps.gradient("0"), full.gradient("0").std())
        torch.testing.assert_close(maps.gradient("1")["out"], full.gradient("1")["out"].std())


def live_bytes():
    """Add up the bytes of all tensors that Python can reach, each storage once."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}.values()
    )


@pytest.mark.parametrize("reduce", [lambda t: t.mean(), lambda t: t[0, 0, 0]])
def test_reduce_keeps_the_memory_of_a_long_loop_flat(reduce):
    model, x, sizes = InplaceAfterConv(), torch.randn(4, 1, 64, 64), []
    with capture(model, "0", gradients=True, reduce=reduce) as maps:
        for steps in (2, 10):
            for _ in range(steps):
                model(x).square().mean().backward()
            sizes.append(live_bytes())
    kept = maps.calls("0")[0].nbytes
    one_map = model[0](x).nbytes
    assert len(maps["0"]) == len(maps.gradient("0")) == 12
    assert sizes[1] - sizes[0] == 10 * 2 * kept
    assert 10 * 2 * kept < one_map / 40


def test_without_reduce_every_map_stays():  # so that the measure above can be trusted
    model, x, sizes = InplaceAfterConv(), torch.randn(4, 1, 64, 64), []
    with capture(model, "0", gradients=True):
        for _ in range(2):
            model(x).square().mean().backward()
            sizes.append(live_bytes())
    assert sizes[1] - sizes[0] == 2 * model[0](x).nbytes


def test_reduced_gradients_are_not_added_up(digits):
    model = TwoConvs()
    with capture(model, "0", gradients=True, reduce=lambda t: t.norm()):
        out = model(digits).sum()
        out.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="second backward pass went through the same"):
            out.backward()


def test_reduce_has_to_return_a_tensor(digits):
    model = TwoConvs()
    with pytest.raises(TypeError, match=r"expected `reduce` to return a tensor, got \d"):  # noqa: SIM117
        with capture(model, "0", reduce=lambda t: t.numel()):
            model(digits)


def test_under_amp_the_gradient_is_that_of_the_scaled_loss(digits):
    model = InplaceAfterConv()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with capture(model, "0", "2", gradients=True) as maps, torch.autocast("cpu", torch.bfloat16):
        loss = model(digits).float().square().sum()
        scaler.scale(loss).backward()
    assert maps["0"].dtype == maps.gradient("0").dtype == torch.bfloat16
    output = maps["0"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rest = model[2](output.relu()).float().square().sum()
    (expected,) = torch.autograd.grad(rest, output)
    torch.testing.assert_close(maps.gradient("0") / scaler.get_scale(), expected)


def test_no_graph_is_kept_alive(digits):
    model, alive = TwoConvs(), []
    model[0].register_forward_hook(lambda module, args, out: alive.append(weakref.ref(out)))
    with capture(model, "0", "2", gradients=True) as maps:
        for _ in range(3):
            model(digits).sum().backward()
        gc.collect()
        assert [ref() for ref in alive] == [None] * 3
    assert all(call.grad_fn is None for call in [*maps["0"], *maps.gradient("0")])


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("make", [DrawsNoise, lambda: DrawsNoise().eval(), FrozenBackbone])
def test_outputs_gradients_and_buffers_are_as_without_it(make, gradients, digits):
    def run(model, watch):
        torch.manual_seed(3)
        with watch:
            out = model(digits)
            out.square().sum().backward()
        return [out, *[p.grad for p in model.parameters()], *model.buffers()]

    plain = make()
    watched = deepcopy(plain)
    names = [name for name, _ in watched.named_modules()]
    expected = run(plain, nullcontext())
    found = run(watched, capture(watched, *names, gradients=gradients))
    for one, other in zip(found, expected, strict=True):
        assert one is other is None or torch.equal(one, other)


def test_an_error_in_forward_arrives_as_it_is_and_no_hook_stays(no_trace):
    model = RaisesInForward()
    with no_trace(model), pytest.raises(RuntimeError, match=r"^on purpose$"):  # noqa: SIM117
        with capture(model, "conv", "", gradients=True) as maps:
            model(torch.zeros(1, 1, 3, 3))
    assert maps["conv"].shape == (1, 2, 1, 1)


def test_gradient_hooks_are_gone_after_the_block(digits):
    model = TwoConvs()
    with capture(model, "0", gradients=True) as maps:
        out = model(digits)
    out.sum().backward()
    with pytest.raises(ValueError, match=r"no gradient arrived at layer '0'; call backward\(\)"):
        maps.gradient("0")


def test_a_checkpointed_layer_shows_that_it_ran_twice(digits):
    model = TwoConvs()
    with capture(model, "0", gradients=True) as maps:
        checkpoint(model, digits, use_reentrant=False).sum().backward()
    first, again = maps["0"]
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert maps.gradient("0")[0].shape == first.shape
    assert maps.gradient("0")[1] is None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("first_call", ["before", "inside"])
def test_compiled_models_show_their_layers(first_call, backend, digits, no_trace):
    model = TwoConvs()
    compiled = torch.compile(model, backend=backend)
    if first_call == "before":
        compiled(digits)
    with no_trace(model), capture(compiled, "0", "", gradients=True) as maps:
        out = compiled(digits)
    torch.testing.assert_close(maps["0"], model[0](digits), rtol=0, atol=0)
    torch.testing.assert_close(maps[""], out.detach(), rtol=0, atol=0)
    compiled(digits)
    assert len(maps.calls("0")) == 1


def test_a_function_or_a_module_compiled_in_place_shows_its_layers(digits):
    model = TwoConvs()
    model[2].compile(backend="eager")
    step = torch.compile(lambda x: model(x), backend="eager")
    step(digits)
    with capture(model, "0", "2") as maps:
        step(digits)
    assert [len(maps.calls(name)) for name in maps] == [1, 1]


def test_wrapped_models_keep_the_names_of_their_layers(digits):
    model = TwoConvs()
    wrapped = nn.DataParallel(model)
    with capture(wrapped, "0") as maps:
        wrapped(digits)
    torch.testing.assert_close(maps["0"], model[0](digits), rtol=0, atol=0)


def test_it_refuses_copies_on_several_devices():
    wrapped = nn.DataParallel(TwoConvs())
    wrapped.device_ids = [0, 1]
    with pytest.raises(TypeError, match=r"DataParallel over 2 devices.*use its `\.module`"):  # noqa: SIM117
        with capture(nn.Sequential(wrapped), "0"):
            pass


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layer", ["", "0", "1.0"])
def test_it_refuses_torchscript(layer, digits):
    traced = torch.jit.trace(nn.Sequential(nn.ReLU(), TwoConvs()), digits)
    with pytest.raises(TypeError, match="TorchScript, which runs no Python hooks"):  # noqa: SIM117
        with capture(traced, layer):
            pass


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ((), ValueError, "at least one layer"),
        (("useb",), KeyError, "'useb' not found; did you mean 'used' or 'unused'"),
        (("zzz",), KeyError, "'zzz' not found; the layers at the top are used, unused"),
        (("used", "unusd*x"), KeyError, r"'unusd\*x' not found; did you mean 'unused'"),
        ((0,), TypeError, "expected the name of a layer, got a int"),
    ],
)
def test_a_wrong_layer_is_named_before_any_hook_is_set(layers, error, message, no_trace):
    model = UnusedBranch()
    with no_trace(model), pytest.raises(error, match=message):  # noqa: SIM117
        with capture(model, *layers):
            pass


def test_a_module_instead_of_a_name_is_told_its_name():
    model = UnusedBranch()
    with pytest.raises(TypeError, match="got a Linear; its name is 'unused'"):  # noqa: SIM117
        with capture(model, model.unused):
            pass


def test_a_model_without_layers_says_so():
    with pytest.raises(KeyError, match="no layers inside"), capture(nn.ReLU(), "relu"):
        pass


def test_reading_what_did_not_happen_is_explained():
    model = UnusedBranch()
    with capture(model, "unused") as maps:
        model(torch.randn(2, 3))
    with pytest.raises(KeyError, match="'unused' did not run inside"):
        maps["unused"]
    with pytest.raises(KeyError, match="'used' was not captured; there are unused"):
        maps["used"]
    with pytest.raises(ValueError, match="gradients=True"):
        maps.gradient("unused")
    assert list(maps) == []
    assert repr(maps) == "Maps(layers and their calls: none yet)"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd_there_are_maps_but_no_gradients(mode, digits):
    model = TwoConvs()
    with mode(), capture(model, "0", gradients=True) as maps:
        model(digits)
    assert maps["0"].shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="requires a gradient"):
        maps.gradient("0")


def test_a_model_without_parameters_and_an_empty_batch():
    model = NoParameters()
    with capture(model, "0") as maps:
        model(torch.zeros(0, 2, 2))
    assert maps["0"].shape == (0, 2, 2)
    assert maps.table().loc[0, "shape"] == (0, 2, 2)


def test_the_table_describes_every_tensor():
    model = TupleOutput()
    with capture(model, "0", "1") as maps:
        model(torch.randn(5, 3))
    table = maps.table().set_index(["layer", "call", "part"])
    first = maps["1"][0].double()
    row = table.loc[("1", 0, 0)]
    assert row["shape"] == (5, 4)
    seen = [
        first.mean(),
        first.std(correction=0),
        first.min(),
        first.max(),
        (first == 0).double().mean(),
    ]
    assert row[["mean", "std", "min", "max", "zeros"]].tolist() == pytest.approx(
        [float(v) for v in seen]
    )
    assert table.index.tolist() == [("0", 0, 0), ("1", 0, 0), ("1", 0, 1)]
