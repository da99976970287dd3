import pytest
import torch
from torch import nn

from labs.hooks import Culprit, first_bad
from tests.models import (
    Detected,
    DividesByItsNorm,
    DrawsNoise,
    FrozenBackbone,
    ImageBatch,
    InfiniteGradient,
    MaskedAttention,
    NaNAtSecondCall,
    NaNBetweenLayers,
    NaNInThird,
    NaNThenRaises,
    NoParameters,
    Pair,
    RaisesInForward,
    ResidualInplace,
    Returns,
    ReusedReLU,
    SharedLayer,
    TwoConvs,
    WritesOverItsInput,
)


def test_it_names_the_first_layer_that_returns_nan():
    culprit = first_bad(NaNInThird(), torch.randn(4, 3))
    assert culprit == Culprit("third", 0, "output", "Log", nan=12, inf=0, values=12)
    assert repr(culprit) == (
        "Culprit(output of third (Log), call 0: 12 NaN and 0 infinite of 12 values)"
    )
    assert culprit.table().set_index("what")["value"]["name"] == "third"


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (TwoConvs(), torch.randn(2, 1, 8, 8)),
        (TwoConvs(), torch.zeros(0, 1, 8, 8)),
        (ReusedReLU(), torch.randn(2, 3)),
        (ResidualInplace(), torch.randn(1, 2, 5, 5)),
        (DrawsNoise(), torch.randn(3, 1, 8, 8)),
        (FrozenBackbone(), torch.randn(3, 1, 8, 8)),
        (NoParameters(), torch.randn(2, 3)),
        (MaskedAttention(), torch.randn(2, 5, 4)),
        (nn.Embedding(3, 2), torch.tensor([0, 2])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_healthy_model_has_no_culprit_and_keeps_no_trace(model, inputs, no_trace):
    with no_trace(model):
        assert first_bad(model, inputs) is None


def test_it_says_which_call():
    culprit = first_bad(NaNAtSecondCall(), torch.zeros(2, 3))
    assert (culprit.name, culprit.call, culprit.kind, culprit.nan) == ("log", 1, "output", 6)


@pytest.mark.parametrize(
    ("build", "tensor"),
    [
        (lambda x: (x, {"boxes": x, "scores": x / 0}), "output[1]['scores']"),
        (lambda x: [Pair(x, x.log())], "output[0].right"),
        (lambda x: Detected(x, (-x).log(), x.argmax(1)), "output.scores"),
        (lambda x: ImageBatch(x / 0, [(8, 8)]), "output.tensors"),
        (lambda x: x / 0, "output"),
    ],
)
def test_it_names_the_part_of_a_nested_output(build, tensor):
    model = nn.Sequential(nn.Identity(), Returns(build))
    culprit = first_bad(model, torch.tensor([[1.0, 0.0]]))
    assert (culprit.name, culprit.tensor) == ("1", tensor)
    assert (f"at {tensor}:" in repr(culprit)) == (tensor != "output")


def test_it_names_the_input_that_was_not_finite():
    class Adds(nn.Module):
        def forward(self, x, *, shift):
            return x + shift["by"]

    shift = {"by": torch.tensor([0.0, float("nan")])}
    model = nn.Sequential()
    model.forward = lambda x: model.add(x, shift=shift)
    model.add = Adds()
    culprit = first_bad(model, torch.zeros(2))  # the model's own code brings it in
    assert (culprit.name, culprit.kind, culprit.tensor) == (
        "", "output", "input['shift']['by'] of 'add'"
    )  # fmt: skip
    culprit = first_bad(nn.Bilinear(2, 2, 1), torch.ones(1, 2), torch.full((1, 2), torch.inf))
    assert (culprit.kind, culprit.tensor) == ("input", "input[1]")


@pytest.mark.parametrize(
    ("model", "x", "tensor"),
    [
        (nn.Conv2d(1, 1, 1, bias=False), torch.full((1, 1, 1, 1), 1e30), "parameter 'weight'"),
        (nn.Linear(1, 1), torch.full((1, 1), 1e30), "parameter 'weight'"),
        (nn.Sequential(nn.Linear(1, 1)), torch.full((1, 1), 1e30), "parameter '0.weight'"),
        (Returns(lambda x: x * 1e30), torch.zeros(1, requires_grad=True), "an input"),
    ],
)
def test_it_names_where_a_gradient_was_going(model, x, tensor):
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    culprit = first_bad(model, x, loss=lambda out: 1e20 * out.sum())
    assert (culprit.kind, culprit.tensor) == ("gradient", tensor)


def test_a_gradient_that_goes_nowhere_by_name_goes_to_a_value_inside():
    def build(x):
        hidden = x * 2 + x
        return (hidden - hidden).abs().sqrt()

    model = nn.Sequential(nn.Linear(2, 2), Returns(build))
    culprit = first_bad(model, torch.ones(1, 2))
    assert (culprit.name, culprit.kind, culprit.tensor) == ("1", "gradient", "a value inside")


def test_code_between_layers_is_blamed_on_the_module_that_holds_it():
    culprit = first_bad(NaNBetweenLayers(), torch.randn(2, 3))
    assert (culprit.name, culprit.kind, culprit.module) == ("inner", "output", "DividesByItsNorm")


def test_the_model_itself_can_be_the_culprit():
    culprit = first_bad(DividesByItsNorm(), torch.zeros(2, 3))
    assert (culprit.name, culprit.kind) == ("", "output")
    assert culprit.tensor == "input of 'project'"
    assert "the model itself (DividesByItsNorm)" in repr(culprit)


def test_infinity_counts_as_well_as_nan():
    culprit = first_bad(nn.Sequential(nn.Linear(2, 2), Returns(lambda x: x / 0)), torch.ones(3, 2))
    assert (culprit.name, culprit.nan, culprit.inf) == ("1", 0, 6)


def test_a_poisoned_weight_is_found_where_it_is_used():
    model = TwoConvs()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = float("nan")
    assert first_bad(model, torch.randn(1, 1, 8, 8)).name == "2"


def test_inputs_that_are_not_finite_are_not_blamed_on_a_layer():
    culprit = first_bad(TwoConvs(), torch.full((1, 1, 8, 8), float("nan")))
    assert (culprit.kind, culprit.name, culprit.nan) == ("input", "0", 64)


def test_a_mask_of_minus_infinity_does_not_hide_the_culprit():
    model = MaskedAttention()
    nn.init.constant_(model.attention.in_proj_weight, float("inf"))
    culprit = first_bad(model, torch.randn(1, 3, 4))
    assert (culprit.name, culprit.kind) == ("attention", "output")


def test_an_infinite_gradient_behind_finite_outputs_is_found():
    model, zeros = InfiniteGradient(), torch.zeros(2, 3)
    assert model(zeros).isfinite().all()
    culprit = first_bad(model, zeros)
    assert (culprit.name, culprit.kind, culprit.module) == ("root", "gradient", "Returns")
    assert culprit.tensor == "output of 'scale'"
    assert repr(culprit) == (
        "Culprit(gradient of root (Returns), call 0, at output of 'scale': "
        "0 NaN and 6 infinite of 6 values)"
    )


def test_a_gradient_is_blamed_on_code_between_layers_too():
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)

        def forward(self, x):
            return self.after(self.before(x).abs().sqrt())

    culprit = first_bad(nn.Sequential(Rooted(), nn.Linear(2, 1)), torch.zeros(1, 2))
    assert (culprit.name, culprit.kind, culprit.module) == ("0", "gradient", "Rooted")


def test_a_gradient_is_followed_through_inplace_layers():
    model = nn.Sequential(
        nn.Linear(2, 2, bias=False), Returns(lambda x: x.abs().sqrt() + 0), nn.ReLU(inplace=True)
    )
    assert first_bad(model, torch.zeros(1, 2)).name == "1"


def test_a_gradient_that_a_tensor_hook_spoils_is_found_in_the_layer_that_receives_it():
    def spoil(x):
        x.register_hook(lambda gradient: gradient * float("inf"))
        return x

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), Returns(spoil), nn.Linear(2, 1))
    culprit = first_bad(model, torch.ones(1, 2))
    assert (culprit.name, culprit.kind) == ("1", "gradient")


def test_the_gradient_of_the_real_loss_is_what_counts():
    model, x = nn.Linear(2, 1, bias=False), torch.zeros(1, 2)
    assert first_bad(model, x) is None
    culprit = first_bad(model, x, loss=lambda out: out.abs().sqrt().sum())
    assert (culprit.name, culprit.kind) == ("(loss)", "gradient")
    culprit = first_bad(model, x, loss=lambda out: out.log().mean())
    assert culprit == Culprit("(loss)", 0, "output", "function", 0, 1, 1)


def test_outputs_whose_sum_float32_cannot_hold_are_no_culprit():
    model = nn.Linear(1, 2, bias=False)
    nn.init.constant_(model.weight, 3e38)
    assert first_bad(model, torch.ones(1, 1)) is None


def test_a_shared_layer_goes_by_its_first_name():
    model = SharedLayer()
    nn.init.constant_(model.left.bias, float("inf"))
    assert first_bad(model, torch.randn(1, 3)).name == "left"


def test_an_error_arrives_as_it_is_unless_nan_came_first(no_trace):
    model = RaisesInForward()
    with no_trace(model), pytest.raises(RuntimeError, match=r"^on purpose$"):
        first_bad(model, torch.zeros(1, 1, 3, 3))
    assert first_bad(NaNThenRaises(), torch.zeros(2)).name == "log"


def test_the_inputs_stay_as_they_were():
    x = torch.ones(1, 1, 4, 4)
    first_bad(WritesOverItsInput(), x)
    assert x.eq(1).all()
    y = torch.zeros(2, 3, requires_grad=True)
    model = InfiniteGradient().requires_grad_(False)
    assert first_bad(model, y).name == "root"
    assert y.grad is None
    assert first_bad(model, y.detach()) is None  # nothing asks for a gradient


def test_existing_gradients_statistics_and_noise_stay(no_trace):
    model, x = DrawsNoise(), torch.randn(4, 1, 8, 8)
    model(x).sum().backward()
    torch.manual_seed(5)
    with no_trace(model):
        assert first_bad(model, x) is None
    assert model[1].num_batches_tracked == 1


def test_a_batch_norm_used_twice_keeps_its_statistics(no_trace):
    norm = nn.BatchNorm1d(3)
    model, x = nn.Sequential(norm, norm), torch.randn(8, 3)
    with no_trace(model):
        assert first_bad(model, x) is None
    assert model[0].num_batches_tracked is model[1].num_batches_tracked
    assert norm.num_batches_tracked == 0


def test_a_pending_backward_pass_still_works():
    model, x = DrawsNoise(), torch.randn(4, 1, 8, 8)
    pending = model.eval()(x).sum()
    first_bad(model, x)
    pending.backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    model = InfiniteGradient()
    with mode():
        assert first_bad(model, torch.zeros(2, 3)).kind == "gradient"


def test_compiled_and_wrapped_models_are_looked_into(no_trace):
    model, x = NaNInThird(), torch.randn(2, 3)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with no_trace(model):
        assert first_bad(compiled, x).name == "third"
        assert first_bad(nn.DataParallel(model), x).name == "third"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_it_refuses_torchscript_inside_the_model():
    model = nn.Sequential(nn.ReLU(), torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)))
    with pytest.raises(TypeError, match="layer '1' is TorchScript"):
        first_bad(model, torch.zeros(1, 2))


def test_it_asks_for_one_number_as_loss():
    with pytest.raises(ValueError, match=r"one number as loss, got shape \(2, 1\); use .mean\(\)"):
        first_bad(nn.Linear(2, 1), torch.zeros(2, 2), loss=lambda out: out)


def test_a_sparse_embedding_is_looked_at(no_trace):
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 2))
    with no_trace(model):
        assert first_bad(model, torch.tensor([1, 1, 3])) is None
    culprit = first_bad(
        model, torch.tensor([1, 3]), loss=lambda out: (out * torch.tensor(1e38)).square().sum()
    )
    assert (culprit.name, culprit.kind) == ("(loss)", "output")
    culprit = first_bad(nn.Sequential(model[0]), torch.tensor([1]), loss=infinite_slope)
    assert culprit.name == "(loss)"
    wide = nn.Sequential(model[0], Returns(lambda x: x * 1e30))
    nn.init.zeros_(model[0].weight)
    culprit = first_bad(wide, torch.tensor([1, 3]), loss=lambda out: 1e20 * out.sum())
    assert (culprit.name, culprit.kind) == ("1", "gradient")
    assert culprit.tensor == "output of '0'"


def infinite_slope(out):
    return (out - out.detach()).abs().sqrt().sum()


class NeedsNames(nn.Module):
    """Take its inputs by name only, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, *, pixels, mask=None):
        out = self.layer(pixels["left"])
        return out if mask is None else out.masked_fill(mask, float("nan"))


def test_inputs_have_names_too():
    model, given = NeedsNames(), {"pixels": {"left": torch.ones(1, 2, requires_grad=True)}}
    assert first_bad(model, kwargs=given) is None
    culprit = first_bad(model, kwargs=given | {"mask": torch.tensor([True, False])})
    assert (culprit.name, culprit.kind, culprit.nan) == ("", "output", 1)
    bad = {"pixels": {"left": torch.tensor([[1.0, float("nan")]])}}
    culprit = first_bad(model, kwargs=bad)
    assert (culprit.name, culprit.kind, culprit.tensor) == ("layer", "input", "input")
    assert given["pixels"]["left"].grad is None
    for wrong in ([1], {1: 2}, torch.ones(1)):
        with pytest.raises(TypeError, match=r"first_bad: expected kwargs to be a dict from the na"):
            first_bad(model, kwargs=wrong)


@pytest.mark.parametrize("wrong", [nn.Linear, "model", None, lambda x: x])
def test_what_is_no_module_is_named(wrong):
    with pytest.raises(TypeError, match=r"expected an nn.Module, got (the class Linear; call|a )"):
        first_bad(wrong, torch.ones(1))


def test_under_autocast_and_in_other_modes_it_sees_what_the_model_computes():
    model = nn.Sequential(nn.Linear(2, 2), Returns(lambda x: x * 1e30), nn.Linear(2, 1))
    nn.init.constant_(model[0].weight, 1e10)
    x = torch.ones(1, 2)
    assert first_bad(model, x).name == "1"
    with torch.autocast("cpu", torch.float16):
        assert first_bad(model, x).name == "0"  # 1e10 is too large for float16
        pending = model(x)
    pending.sum().backward()
    assert model[2].weight.grad is not None


def test_a_functional_call_inside_is_followed():
    class Swaps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x):
            weights = {name: p / 0 for name, p in self.inner.named_parameters()}
            return torch.func.functional_call(self.inner, weights, (x,))

    assert first_bad(Swaps(), torch.ones(1, 2)).name == "inner"
