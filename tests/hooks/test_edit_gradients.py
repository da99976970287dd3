import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from labs.hooks import add_noise, clip_norm, clip_value, edit_gradients, grad_cam
from tests.models import (
    DrawsNoise,
    FrozenBackbone,
    NoParameters,
    RaisesInForward,
    TiedWeights,
    TwoConvs,
    UnusedBranch,
)


class Raises(torch.autograd.Function):
    """Pass a tensor on, and raise in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("in backward, on purpose")


@pytest.fixture
def digits():
    torch.manual_seed(0)
    return torch.randn(2, 1, 8, 8)


def loss(model, x):
    return model(x).square().sum()


def plain(model, x):
    """Return what backward() puts into .grad when nothing is edited."""
    copied = deepcopy(model)
    copied.zero_grad()
    loss(copied, x).backward()
    return {name: p.grad for name, p in copied.named_parameters()}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def same(found, expected, rtol=0.0, atol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_a_number_scales_everything_under_its_key(digits):
    model = TwoConvs()
    with edit_gradients(model, {"0": 0.5, "2.bias": -2}):
        loss(model, digits).backward()
    before = plain(model, digits)
    factors = {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 1, "2.bias": -2}
    same(gradients(model), {name: factors[name] * g for name, g in before.items()})


@pytest.mark.parametrize(
    ("key", "hit"),
    [
        ("", {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ("*", {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ("[02]", {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ("*.bias", {"0.bias", "2.bias"}),
        ("2", {"2.weight", "2.bias"}),
        ("2.weight", {"2.weight"}),
    ],
)
def test_keys_are_modules_parameters_and_patterns(key, hit, digits):
    model = TwoConvs()
    with edit_gradients(model, {key: 3.0}):
        loss(model, digits).backward()
    before = plain(model, digits)
    same(gradients(model), {n: 3 * g if n in hit else g for n, g in before.items()})


def test_zero_freezes_even_where_an_optimizer_has_momentum_and_decays(digits):
    model = TwoConvs()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    loss(model, digits).backward()
    optimizer.step()  # now there is momentum
    before = deepcopy(model)
    with edit_gradients(model, {"0": 0.0}):
        for _ in range(2):
            optimizer.zero_grad()
            loss(model, digits).backward()
            optimizer.step()
    assert model[0].weight.grad is None
    same(model[0].state_dict(), before[0].state_dict())
    assert not torch.equal(model[2].weight, before[2].weight)


def test_zero_stops_a_nan_and_keeps_what_was_there(digits):
    model = TwoConvs()
    loss(model, digits).backward()
    before = {name: g.clone() for name, g in gradients(model).items()}
    with edit_gradients(model, {"": 0.0}):
        loss(model, digits * float("nan")).backward()
    same(gradients(model), before)


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
def test_clip_norm_is_joint_as_in_torch(max_norm, digits):
    model = TwoConvs()
    expected = deepcopy(model)
    loss(expected, digits).backward()
    torch.nn.utils.clip_grad_norm_(expected[2].parameters(), max_norm)
    with edit_gradients(model, {"2": clip_norm(max_norm)}):
        loss(model, digits).backward()
    same(gradients(model), gradients(expected))


def test_gradients_held_before_the_block_are_not_clipped(digits):
    model = TwoConvs()
    loss(model, digits).backward()
    held = {name: g.clone() for name, g in gradients(model).items()}
    identity = {name: id(g) for name, g in gradients(model).items()}
    fresh = deepcopy(model)
    fresh.zero_grad()
    with edit_gradients(model, {"": clip_norm(0.1)}), edit_gradients(fresh, {"": clip_norm(0.1)}):
        loss(model, digits).backward()
        loss(fresh, digits).backward()
    norm = torch.nn.utils.get_total_norm(list(gradients(fresh).values()))
    assert norm.item() == pytest.approx(0.1, rel=1e-4)
    same(gradients(model), {name: held[name] + g for name, g in gradients(fresh).items()})
    assert identity == {name: id(g) for name, g in gradients(model).items()}


def test_clip_value_is_that_of_torch_but_an_infinity_stays(digits):
    model = TwoConvs()
    expected = deepcopy(model)
    loss(expected, digits).backward()
    torch.nn.utils.clip_grad_value_(expected[0].parameters(), 0.01)
    with edit_gradients(model, {"0": clip_value(0.01)}):
        loss(model, digits).backward()
    same(gradients(model), gradients(expected))
    (cut,) = clip_value(2.0)([torch.tensor([-5.0, 1.0, float("inf"), -float("inf")])])
    assert cut.tolist() == [-2.0, 1.0, float("inf"), -float("inf")]


def test_noise_has_its_size_and_comes_from_its_generator_only(no_trace):
    model, x = nn.Linear(200, 100), torch.randn(2, 200)
    before = plain(model, x)
    found = []
    for _ in range(2):
        model.zero_grad()
        state = torch.get_rng_state()
        noise = add_noise(0.3, torch.Generator().manual_seed(7))
        with edit_gradients(model, {"weight": noise}):
            loss(model, x).backward()
        assert torch.equal(torch.get_rng_state(), state)
        found.append(model.weight.grad - before["weight"])
    same(found[0], found[1])
    assert found[0].std().item() == pytest.approx(0.3, rel=0.02)
    assert found[0].mean().abs() < 0.01
    same(model.bias.grad, before["bias"])


def test_several_keys_apply_in_the_order_of_the_mapping(digits):
    model = TwoConvs()
    before = plain(model, digits)
    whole = torch.nn.utils.get_total_norm(list(before.values()))
    head = torch.nn.utils.get_total_norm([before["2.weight"], before["2.bias"]])
    for edits, norm in [
        ({"": clip_norm(0.1), "0": 0.0}, 0.1 * head / whole),  # the norm counts what freezes after
        ({"0": 0.0, "": clip_norm(0.1)}, torch.tensor(0.1)),  # and not what was frozen before
    ]:
        model.zero_grad()
        with edit_gradients(model, edits):
            loss(model, digits).backward()
        assert model[0].weight.grad is None
        left = torch.nn.utils.get_total_norm([p.grad for p in model[2].parameters()])
        torch.testing.assert_close(left, norm, rtol=1e-4, atol=0)


def test_a_shared_parameter_is_edited_once_per_key():
    model, x = TiedWeights(), torch.randn(4, 3)
    before = plain(model, x)
    for edits, factor in [({"inner": 0.5}, 0.5), ({"": 0.5}, 0.5), ({"inner": 3, "outer": 5}, 15)]:
        model.zero_grad()
        with edit_gradients(model, edits):
            loss(model, x).backward()
        same(model.inner.weight.grad, factor * before["inner.weight"], rtol=1e-6)


def test_an_edit_of_your_own_gets_what_the_pass_reached():
    model, seen = UnusedBranch(), []

    def centre(found):
        seen.extend(g.shape for g in found)
        return [g.sub_(g.mean()) for g in found]  # in place is harmless

    with edit_gradients(model, {"": centre, "unused": clip_norm(1.0)}):
        loss(model, torch.randn(4, 3)).backward()
    assert seen == [(2, 3), (2,)]
    assert model.used.weight.grad.mean().abs() < 1e-6
    assert model.unused.weight.grad is None


def test_a_gradient_that_two_parameters_share_is_not_edited_twice():
    model = nn.ParameterDict({"a": torch.ones(3), "b": torch.ones(3)})
    with edit_gradients(model, {"a": lambda found: [g.mul_(10) for g in found]}):
        (model["a"] + model["b"]).backward(torch.tensor([1.0, 2.0, 3.0]))
    assert model["a"].grad.tolist() == [10.0, 20.0, 30.0]
    assert model["b"].grad.tolist() == [1.0, 2.0, 3.0]


def test_it_holds_for_every_step_of_a_training_run(digits):
    def train(model, edits, clip):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with edit_gradients(model, edits):
            for _ in range(4):
                optimizer.zero_grad()
                loss(model, digits).backward()
                clip(model)
                optimizer.step()
        return model.state_dict()

    model = TwoConvs()
    by_hand = train(
        deepcopy(model), {}, lambda m: torch.nn.utils.clip_grad_norm_(m.parameters(), 0.05)
    )
    same(train(model, {"": clip_norm(0.05)}, lambda m: None), by_hand)


def test_only_backward_passes_inside_the_block_are_edited(digits):
    model = TwoConvs()
    before = plain(model, digits)
    early = loss(model, digits)
    with edit_gradients(model, {"": 2.0}):
        early.backward()
        late = loss(model, digits)
    same(gradients(model), {name: 2 * g for name, g in before.items()})
    model.zero_grad()
    late.backward()
    same(gradients(model), before)


@pytest.mark.parametrize("where", ["forward", "block", "backward", "edit"])
def test_nothing_is_left_after_an_error(where, digits, no_trace):
    model = RaisesInForward() if where == "forward" else TwoConvs()

    def fail(found):
        raise RuntimeError("in an edit, on purpose")

    def step():
        with no_trace(model), edit_gradients(model, {"": fail if where == "edit" else 0.5}):
            out = model(digits)
            if where == "block":
                raise RuntimeError("on purpose")
            (Raises.apply(out) if where == "backward" else out).sum().backward()

    with pytest.raises(RuntimeError, match="on purpose"):
        step()
    model.zero_grad()
    model = TwoConvs() if where == "forward" else model
    before = plain(model, digits)
    loss(model, digits).backward()
    same(gradients(model), before)


def test_a_pass_that_raised_adds_nothing_and_the_next_one_is_edited(digits):
    model = TwoConvs()
    loss(model, digits).backward()
    held = {name: g.clone() for name, g in gradients(model).items()}
    middle = model[0](digits)
    with edit_gradients(model, {"": 0.5}):
        with pytest.raises(RuntimeError, match="on purpose"):
            model[2](Raises.apply(middle)).sum().backward()  # raises after "2" got its gradient
        same(gradients(model), held)
        loss(model, digits).backward()
    same(gradients(model), {name: 1.5 * g for name, g in held.items()}, rtol=1e-6)


def test_autograd_grad_and_grad_cam_inside_are_not_edited(digits, no_trace):
    model = TwoConvs().eval()
    before = list(plain(model, digits).values())
    heat = grad_cam(model, digits, "0", lambda out: out[:, 0])
    with no_trace(model), edit_gradients(model, {"": 0.0}):
        same(list(torch.autograd.grad(loss(model, digits), list(model.parameters()))), before)
        same(grad_cam(model, digits, "0", lambda out: out[:, 0]), heat)


def test_a_scaled_loss_is_clipped_by_its_true_norm(digits):
    model = TwoConvs()
    expected = deepcopy(model)
    with edit_gradients(expected, {"": clip_norm(0.1)}):
        loss(expected, digits).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with edit_gradients(model, {"": clip_norm(0.1)}, scale=scaler):
        scaler.scale(loss(model, digits)).backward()
        scaler.unscale_(optimizer)
    same(gradients(model), gradients(expected), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("edit", [clip_norm(1.0), clip_value(1.0), 0.5])
def test_a_scaler_still_sees_the_infinity_and_skips_the_step(edit, digits):
    model = TwoConvs()
    before = deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with edit_gradients(model, {"": edit}, scale=scaler):
        scaler.scale(1e38 * loss(model, digits)).backward()
        scaler.step(optimizer)
        scaler.update()
    same(model.state_dict(), before)
    assert scaler.get_scale() == 512


def test_under_autocast_the_float32_gradients_are_edited(digits):
    def run(edits):
        clone = deepcopy(model)
        with edit_gradients(clone, edits):
            with torch.autocast("cpu", torch.bfloat16):
                out = clone(digits)
            out.float().square().sum().backward()
        return gradients(clone)

    model = TwoConvs()
    same(run({"": 0.5}), {name: 0.5 * g for name, g in run({}).items()})


def test_checkpointed_layers_count_in_the_norm(digits):
    model = TwoConvs()
    with edit_gradients(model, {"": clip_norm(0.1)}):
        checkpoint(model, digits, use_reentrant=False).square().sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert norm.item() == pytest.approx(0.1, rel=1e-4)


BACKENDS = [
    "eager",
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no g++")],
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_models_are_edited_under_their_plain_names(backend, digits):
    model = TwoConvs()
    compiled = torch.compile(model, backend=backend)
    with edit_gradients(compiled, {"0": 0.0, "2": 0.5}):
        loss(compiled, digits).backward()
    before = plain(model, digits)
    assert model[0].weight.grad is None
    same(model[2].weight.grad, 0.5 * before["2.weight"], rtol=1e-5, atol=1e-6)


def test_data_parallel_models_are_edited_under_their_plain_names(digits):
    model = DrawsNoise().eval()
    with edit_gradients(nn.DataParallel(model), {"0": 0.5}):
        loss(nn.DataParallel(model), digits).backward()
    same(model[0].weight.grad, 0.5 * plain(model, digits)["0.weight"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_edits_are_the_same(digits):
    model = TwoConvs()
    edits = {"": clip_norm(0.1), "2": clip_value(0.01)}
    on_gpu, x = deepcopy(model).cuda(), digits.cuda()
    with edit_gradients(model, edits), edit_gradients(on_gpu, edits):
        loss(model, digits).backward()
        loss(on_gpu, x).backward()
    found = {name: g.cpu() for name, g in gradients(on_gpu).items()}
    same(found, gradients(model), rtol=1e-3, atol=1e-5)


def test_frozen_parameters_are_left_out():
    model, x = FrozenBackbone(), torch.randn(3, 1, 8, 8)
    before = plain(model, x)
    with edit_gradients(model, {"backbone": clip_norm(1.0), "": 0.5}):
        loss(model, x).backward()
    assert model.backbone[0].weight.grad is None
    same(model.head.weight.grad, 0.5 * before["head.weight"])


@pytest.mark.parametrize(
    ("edits", "error", "message"),
    [
        ({"hed": 0.0}, KeyError, "module or parameter 'hed' not found; did you mean 'head'"),
        ({"hea?.wait": 0.0}, KeyError, r"'hea\?.wait' not found; did you mean 'head.weight'"),
        ({"backbone.2": 0.0}, ValueError, "parameters under 'backbone.2', there are none"),
        ({"head": "freeze"}, TypeError, r"a number or an edit such as clip_norm\(1.0\) for 'head'"),
        ({"head": True}, TypeError, "a number or an edit"),
        ({"head": float("nan")}, ValueError, "a finite number for 'head', got nan"),
    ],
)
def test_wrong_edits_are_refused_before_anything_happens(edits, error, message, no_trace):
    model = FrozenBackbone()
    with no_trace(model), pytest.raises(error, match=message), edit_gradients(model, edits):
        pass


@pytest.mark.parametrize(
    "make", [clip_norm, clip_value, lambda value: add_noise(value, torch.Generator())]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), "1", None, [1.0]])
def test_bounds_are_above_zero(make, value):
    with pytest.raises(ValueError, match="expected a finite number above 0, got"):
        make(value)


def test_an_edit_that_returns_other_shapes_is_refused(digits):
    model = TwoConvs()
    for wrong in (lambda found: found[:1], lambda found: [g.sum() for g in found]):
        with pytest.raises(ValueError, match="edit of '2' to return one gradient for each"):  # noqa: SIM117
            with edit_gradients(model, {"2": wrong}):
                loss(model, digits).backward()


def test_a_block_inside_a_block_on_the_same_parameters_is_refused(digits):
    model = TwoConvs()
    with edit_gradients(model, {"0": 0.5}):
        with pytest.raises(ValueError, match="put all edits into one mapping"):  # noqa: SIM117
            with edit_gradients(model, {"": 0.5}):
                pass
        with edit_gradients(model, {"2": 0.25}):
            loss(model, digits).backward()
    before = plain(model, digits)
    same(model[0].weight.grad, 0.5 * before["0.weight"])
    same(model[2].weight.grad, 0.25 * before["2.weight"])


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_second_derivatives_and_sparse_gradients_are_refused():
    model = nn.Embedding(5, 2, sparse=True)
    with edit_gradients(model, {"": 0.5}), pytest.raises(RuntimeError, match="dense gradients"):
        model(torch.tensor([1])).sum().backward()
    model = nn.Linear(2, 1)
    with edit_gradients(model, {"": 0.5}), pytest.raises(RuntimeError, match="create_graph=True"):
        loss(model, torch.ones(1, 2)).backward(create_graph=True)


def test_an_optimizer_that_steps_during_backward_is_refused(digits):
    model = TwoConvs()

    def step(parameter):
        parameter.grad = None

    model[0].weight.register_post_accumulate_grad_hook(step)
    with edit_gradients(model, {"": 0.5}), pytest.raises(RuntimeError, match="steps in a hook"):
        loss(model, digits).backward()


def test_distributed_models_are_refused_by_what_is_edited_in_them(one_rank, digits):
    inner, head = TwoConvs(), nn.Linear(3, 1)
    ddp = nn.parallel.DistributedDataParallel(inner)
    model = nn.Sequential(ddp, head)
    for refused, key in ((model, ""), (model, "0"), (ddp, "2"), (inner, ""), (inner[2], "bias")):
        with pytest.raises(TypeError, match="outside of DistributedDataParallel"):  # noqa: SIM117
            with edit_gradients(refused, {key: 0.5}):
                pass
    with edit_gradients(model, {"1": 0.0}):  # nobody averages the head
        loss(model, digits).backward()
    assert head.weight.grad is None
    assert inner[0].weight.grad is not None


def test_keys_of_other_kinds_are_told_their_name():
    model = FrozenBackbone()
    for key, name in ((model.head, "'head'"), (model.head.weight, "'head.weight'"), (model, "''")):
        with pytest.raises(TypeError, match=f"got a [A-Za-z]+; its name is {name}"):  # noqa: SIM117
            with edit_gradients(model, {key: 0.0}):
                pass
    for key, got in ((nn.Linear(1, 1), "a Linear"), (0, "a int"), (nn.Linear, "the class Linear")):
        with pytest.raises(TypeError, match=f"of a module or parameter, got {got}$"):  # noqa: SIM117
            with edit_gradients(model, {key: 0.0}):
                pass


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("head", 0.0)], "expected a dict from names to edits, got a list"),
        (0.5, "expected a dict from names to edits, got a float; for everything, use"),
        ({"head": clip_norm}, "got the function that makes one; call it with its limit"),
        ({"head": torch.tensor(0.5)}, "for 'head', got a Tensor"),
        ({"head": None}, "for 'head', got None"),
    ],
)
def test_wrong_kinds_of_edits_say_what_is_expected(edits, message, no_trace):
    model = FrozenBackbone()
    with no_trace(model), pytest.raises(TypeError, match=message):  # noqa: SIM117
        with edit_gradients(model, edits):
            pass


def test_numbers_of_numpy_are_numbers(digits):
    model = TwoConvs()
    with edit_gradients(model, {"0": np.float32(0.5), "2": np.int64(0)}):
        loss(model, digits).backward()
    same(model[0].weight.grad, 0.5 * plain(model, digits)["0.weight"])
    assert model[2].weight.grad is None


def test_an_edit_that_returns_no_list_of_tensors_is_refused(digits):
    model = TwoConvs()
    for wrong, got in (
        (lambda found: None, "got None"),
        (lambda found: found[0], "got a Tensor"),
        (lambda found: (g for g in found), "got <generator"),
        (lambda found: [None for _ in found], r"got \['NoneType', 'NoneType'\]"),
    ):
        with pytest.raises(TypeError, match=f"'2' to return a list of tensors, .*{got}"):  # noqa: SIM117
            with edit_gradients(model, {"2": wrong}):
                loss(model, digits).backward()


def test_a_model_without_parameters_has_nothing_to_edit():
    with pytest.raises(ValueError, match="there are none"), edit_gradients(NoParameters(), {"": 1}):
        pass


def test_a_scale_of_zero_is_refused_before_backward():
    with pytest.raises(ValueError, match="expected a scale above 0"):  # noqa: SIM117
        with edit_gradients(TwoConvs(), {"": 0.5}, scale=0.0):
            pass


def test_no_edits_change_nothing(digits):
    model = TwoConvs()
    with edit_gradients(model, {}):
        loss(model, digits).backward()
    same(gradients(model), plain(model, digits))
