import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from labs.numerics import check_gradients
from tests.models import FrozenBackbone, SharedLayer, UnusedBranch


class HalvedSquare(torch.autograd.Function):
    """Square its input, and pass back half of the gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


class OneWrongElement(torch.autograd.Function):
    """Return its input, and negate the gradient of the element (1, 2)."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient[1, 2] *= -1
        return gradient


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def naive_mish(x):
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


@pytest.mark.parametrize(
    "fn",
    [
        torch.sin,
        torch.tanh,
        F.mish,
        lambda x: x.softmax(1),
        lambda x: F.cross_entropy(x, torch.tensor([0, 2])),
        HalvedSquare.apply,
        OneWrongElement.apply,
        lambda x: x.detach() * x,
    ],
)
def test_it_agrees_with_gradcheck(fn):
    x = numbers(2, 3)
    theirs = torch.autograd.gradcheck(fn, x.clone().requires_grad_(), raise_exception=False)
    assert check_gradients(fn, x).ok == theirs


def test_it_finds_the_one_wrong_element_and_both_slopes():
    check = check_gradients(OneWrongElement.apply, numbers(2, 3))
    (row,) = check.failures
    assert (row.verdict, row.index, row.checked) == ("wrong", (1, 2), 6)
    assert row.analytic == pytest.approx(-row.numeric)
    assert row.relative_error == pytest.approx(2)
    assert repr(check).startswith(
        "GradientCheck(apply: 0 of 1 as expected; wrong: input 0 at (1, 2)"
    )


def test_a_plain_sum_would_not_see_a_wrong_softmax():
    class NoGradientSoftmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.softmax(-1)

        @staticmethod
        def backward(ctx, gradient):
            return torch.zeros_like(gradient)

    assert not check_gradients(NoGradientSoftmax.apply, numbers(2, 3)).ok


@pytest.mark.parametrize("fn", [torch.relu, F.leaky_relu])
def test_a_kink_is_not_called_wrong(fn):
    check = check_gradients(fn, torch.tensor([1.0, 0.0, -2.0]))
    assert check.ok
    assert [(row.verdict, row.index) for row in check.kinks] == [("kink", (1,))]
    assert "kink: input 0 at (1,)" in repr(check)


def test_a_value_beyond_both_slopes_of_a_kink_is_wrong():
    class BadReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            return 3 * gradient

    assert check_gradients(BadReLU.apply, torch.zeros(1)).failures[0].verdict == "wrong"


def test_it_tells_a_cut_graph_from_an_input_that_does_not_matter():
    check = check_gradients(lambda a, b, c: a * b.detach() + 0 * c.detach(), *numbers(3, 2))
    assert [row.verdict for row in check.inputs] == ["ok", "no gradient", "unused"]
    assert "no gradient flows to input 1" in repr(check)
    everything = check_gradients(lambda x: torch.from_numpy(x.detach().numpy() ** 2), numbers(2))
    assert everything.failures[0].verdict == "no gradient"


@pytest.mark.parametrize(
    ("fn", "x"),
    [(naive_mish, [1000.0]), (lambda x: (x**2).sum().sqrt(), [0.0, 0.0])],
    ids=["naive Mish", "norm at 0"],
)
def test_it_sees_a_gradient_that_is_not_finite(fn, x):
    (row,) = check_gradients(fn, torch.tensor(x)).failures
    assert row.verdict == "not finite"
    assert math.isnan(row.analytic)
    assert math.isinf(row.relative_error)


def test_only_inputs_that_require_a_gradient_are_checked_when_any_does():
    target = numbers(3)
    check = check_gradients(F.mse_loss, numbers(3).requires_grad_(), target)
    assert [row.name for row in check.inputs] == ["input 0"]
    assert len(check_gradients(F.mse_loss, numbers(3), target).inputs) == 2


def test_an_empty_input_has_nothing_wrong():
    check = check_gradients(torch.sum, torch.zeros(0, 3))
    assert check.ok
    assert check.inputs[0].checked == 0
    assert list(check.table()["shape"]) == [(0, 3)]


def test_it_checks_an_input_that_is_written_over_and_one_that_is_not_contiguous():
    x = torch.arange(6.0).view(2, 3).t()
    assert check_gradients(torch.Tensor.mul_, x, torch.ones(3, 2)).ok
    assert x.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    with mode():
        assert check_gradients(nn.Linear(3, 2), torch.ones(2, 3)).ok
        assert not torch.is_grad_enabled()


def test_it_draws_the_same_elements_each_time():
    a, b = (check_gradients(torch.sin, numbers(40, 40), elements=7) for _ in range(2))
    assert a == b
    assert a.inputs[0].checked == 7


@pytest.mark.parametrize(
    "model", [SharedLayer(), FrozenBackbone(), nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))]
)
def test_a_module_stays_as_it_was(model):
    x = torch.rand(2, 1, 8, 8) if isinstance(model, FrozenBackbone) else torch.rand(2, 3)
    before = {name: (t.dtype, t.clone()) for name, t in model.state_dict().items()}
    random = torch.get_rng_state()
    assert check_gradients(model, x, elements=20).ok
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert all(after[k].dtype == d and torch.equal(after[k], v) for k, (d, v) in before.items())


def test_tied_weights_are_one_parameter():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    check = check_gradients(nn.Sequential(first, nn.Tanh(), second), torch.rand(2, 3))
    assert [row.name for row in check.inputs] == ["input 0", "0.weight"]
    assert check.ok
    assert second.weight is first.weight


def test_a_batch_norm_under_two_names_stays_as_it_was():
    norm = nn.BatchNorm1d(3)
    assert check_gradients(nn.Sequential(norm, norm), torch.rand(4, 3)).ok
    assert norm.weight.dtype == norm.running_mean.dtype == torch.float32
    assert norm.num_batches_tracked == 0


def test_batch_norm_in_train_mode_keeps_its_statistics():
    norm = nn.BatchNorm1d(3)
    assert check_gradients(norm, torch.rand(4, 3)).ok
    assert norm.num_batches_tracked == 0
    assert norm.running_mean.tolist() == [0, 0, 0]


def test_a_parameter_that_the_output_does_not_need_is_unused():
    model = UnusedBranch()
    verdicts = check_gradients(model, torch.rand(2, 3)).table().set_index("name")["verdict"]
    assert "unused" in set(verdicts)
    assert "no gradient" not in set(verdicts)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: torchvision.models.resnet18().layer1[0].eval(), (1, 64, 3, 4)),
        (lambda: torchvision.models.mobilenet_v3_small().features[1].eval(), (1, 16, 4, 5)),
        (lambda: torchvision.ops.MLP(5, [8, 3], activation_layer=nn.GELU), (2, 5)),
        (lambda: torchvision.models.vision_transformer.MLPBlock(12, 24, 0.1), (1, 2, 12)),
    ],
    ids=["resnet18", "mobilenet_v3_small", "MLP", "the MLP block of a vision transformer"],
)
def test_torchvision_layers_that_it_never_saw(layer, x):
    torch.manual_seed(0)
    check = check_gradients(layer(), numbers(*x), elements=5)
    assert check.ok, check
    assert len(check.inputs) > 4


def test_errors_say_what_was_expected():
    with pytest.raises(TypeError, match="expected a floating-point tensor or a trainable"):
        check_gradients(torch.sum, torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="expected a floating-point output, got int"):
        check_gradients(lambda x: 3, torch.zeros(1))
    with pytest.raises(ValueError, match=r"got torch.float32; .* remove casts such as .float()"):
        check_gradients(lambda x: x.float(), torch.zeros(1))
    with pytest.raises(ValueError, match="expected step > 0 and elements >= 1, got 0 and 100"):
        check_gradients(torch.sin, torch.zeros(1), step=0)
    own = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="the same value when called again"):
        check_gradients(lambda x: x * torch.rand(1, generator=own).double(), torch.ones(1))


@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-3])
def test_the_error_of_the_differences_falls_with_the_square_of_the_step(step):
    x = torch.tensor([0.7], dtype=torch.float64)
    check = check_gradients(torch.exp, x, step=step)
    (row,) = check.inputs
    assert row.analytic == pytest.approx(math.exp(0.7), rel=1e-12)
    # (e^h - e^-h) / 2h = 1 + h^2/6 + ...; a difference to one side only is off by h/2.
    assert row.numeric / row.analytic - 1 == pytest.approx(step**2 / 6, rel=0.01)


def test_a_slope_of_a_curve_is_within_the_tolerance_at_a_step_at_which_one_side_is_not():
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    assert check_gradients(lambda x: x**2, x, step=0.1, rtol=1e-9, atol=1e-9).ok


def test_inputs_have_names_too():
    def loss(x, *, weights, labels):
        return F.cross_entropy(x * weights["w"], labels)

    given = {"weights": {"w": torch.rand(1, 3)}, "labels": torch.tensor([0, 2])}
    check = check_gradients(loss, torch.rand(2, 3), kwargs=given)
    assert check.ok
    assert [row.name for row in check.inputs] == ["input 0", "input weights['w']"]
    chosen = torch.rand(1, 3, requires_grad=True)
    given["weights"] = {"w": chosen}
    check = check_gradients(loss, torch.rand(2, 3), kwargs=given)
    assert [row.name for row in check.inputs] == ["input weights['w']"]
    assert chosen.grad is None
    model = nn.Linear(3, 2)
    model.forward = lambda x, scale: F.linear(x * scale, model.weight, model.bias)
    check = check_gradients(model, torch.rand(2, 3), kwargs={"scale": torch.rand(3)})
    assert [row.name for row in check.inputs] == ["input 0", "input scale", "weight", "bias"]
    assert check.ok
    written = torch.ones(3)
    check_gradients(lambda x, y: x * y.mul_(2), torch.ones(3), kwargs={"y": written})
    assert written.tolist() == [1, 1, 1]


@pytest.mark.parametrize("wrong", [torch.ones(1), [1], {0: 1}])
def test_inputs_by_name_are_a_mapping_from_names(wrong):
    with pytest.raises(TypeError, match="check_gradients: expected kwargs to be a dict from the n"):
        check_gradients(torch.sin, torch.ones(1), kwargs=wrong)
    with pytest.raises(TypeError, match="expected a function or a module, got a Tensor; pass the"):
        check_gradients(torch.ones(1), torch.ones(1))
