from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as ops

from labs.numerics import Case, cases, stress

FULL = (torch.float32, torch.bfloat16)
EMPTY_MEAN = {"no samples", "no boxes"}


def failing(report):
    return {outcome.case for outcome in report.failures}


def naive_mish(x):
    return x * torch.tanh(torch.log(1 + torch.exp(x)))


def log_of_softmax(logits, target):
    return -torch.log(logits.softmax(1)).gather(1, target[:, None].clamp(min=0)).mean()


def dice_without_smoothing(p, target):
    return 1 - 2 * (p * target).sum() / (p.sum() + target.sum())


def smooth_dice(p, target):
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def focal_from_probabilities(p, target, gamma=0.5):
    pt = torch.where(target == 1, p, 1 - p)
    return (-((1 - pt) ** gamma) * torch.log(pt)).mean()


def ciou(a, b, eps=0.0, height_eps=0.0):
    aw, ah = a[:, 2] - a[:, 0], a[:, 3] - a[:, 1]
    bw, bh = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
    corner = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    inter = corner.clamp(min=0).prod(1)
    iou = inter / (aw * ah + bw * bh - inter + eps)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    far = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]).pow(2).sum(1) / 4
    turn = torch.atan(bw / (bh + height_eps)) - torch.atan(aw / (ah + height_eps))
    v = 4 / torch.pi**2 * turn**2
    alpha = v / (1 - iou + v + eps)
    return (1 - iou + far / (hull.pow(2).sum(1) + eps) + alpha * v).mean()


@pytest.mark.parametrize(
    ("loss", "family", "expected"),
    [
        # A mean over nothing is 0/0; PyTorch says NaN.
        (F.cross_entropy, "logits", {"no samples", "all ignored"}),
        (lambda x, y: F.nll_loss(x.log_softmax(1), y), "logits", {"no samples", "all ignored"}),
        (partial(F.cross_entropy, reduction="sum"), "logits", set()),
        (F.binary_cross_entropy_with_logits, "binary", {"no samples"}),
        (partial(F.binary_cross_entropy_with_logits, reduction="sum"), "binary", set()),
        (partial(ops.sigmoid_focal_loss, reduction="mean"), "binary", {"no samples"}),
        (partial(ops.sigmoid_focal_loss, reduction="sum"), "binary", set()),
        (F.binary_cross_entropy, "probabilities", {"no samples"}),
        (F.mse_loss, "probabilities", {"no samples"}),
        (F.smooth_l1_loss, "boxes", {"no boxes"}),
        (F.huber_loss, "boxes", {"no boxes"}),
        (F.mse_loss, "boxes", {"no boxes"}),
        (partial(ops.generalized_box_iou_loss, reduction="mean"), "boxes", set()),
        (partial(ops.distance_box_iou_loss, reduction="sum"), "boxes", set()),
        (F.mish, "elementwise", set()),
        (F.silu, "elementwise", set()),
        (F.gelu, "elementwise", set()),
        (F.softplus, "elementwise", set()),
        (torch.linalg.vector_norm, "elementwise", set()),
        (smooth_dice, "probabilities", set()),
    ],
)
def test_pytorch_s_own_losses_fail_only_where_their_mean_is_over_nothing(loss, family, expected):
    report = stress(loss, family, dtypes=FULL)
    assert failing(report) == expected, report.table().query("failed")
    assert report.ok == (not expected)
    assert {outcome.verdict for outcome in report.failures} <= {"value is NaN"}


def test_torchvision_s_ciou_has_no_gradient_for_a_flat_box():
    report = stress(partial(ops.complete_box_iou_loss, reduction="mean"), "boxes", dtypes=FULL[:1])
    assert failing(report) == {
        "prediction without height",
        "prediction is a point",
        "target is a point",
        "both the same point",
        "both all zero",
    }
    flat = {outcome.case: outcome for outcome in report.failures}["prediction without height"]
    assert flat.verdict == "gradient is NaN"
    assert flat.value == pytest.approx(1.1649, abs=1e-4)


def test_float16_finds_sums_that_it_cannot_hold():
    squares = stress(F.mse_loss, "boxes", dtypes=[torch.float16])
    assert {o.case for o in squares.failures if o.verdict == "value is infinite"} == {"apart"}
    too_large = squares.table().set_index("case").loc["huge"]
    assert too_large["verdict"] == "skipped: too large for float16"
    assert not too_large["failed"]


@pytest.mark.parametrize(
    ("loss", "family", "case", "verdict"),
    [
        (naive_mish, "elementwise", "1000", "gradient is NaN"),
        (log_of_softmax, "logits", "sure and wrong", "gradient is NaN"),
        (dice_without_smoothing, "probabilities", "empty target, sure and right", "value is NaN"),
        (
            focal_from_probabilities,
            "probabilities",
            "exactly 0 and 1, and right",
            "gradient is NaN",
        ),
        (ciou, "boxes", "identical", "value is NaN"),
        (partial(ciou, eps=1e-7), "boxes", "prediction without height", "gradient is NaN"),
        (lambda x: (x**2).sum().sqrt(), "elementwise", "zeros", "gradient is NaN"),
        (torch.sqrt, "elementwise", "zeros", "gradient is infinite"),
        (lambda p, t: (p > 0.5).float().sub(t).mean(), "binary", "all zero", "no gradient"),
    ],
)
def test_it_finds_the_known_bugs(loss, family, case, verdict):
    report = stress(loss, family, dtypes=[torch.float32])
    found = {outcome.case: outcome.verdict for outcome in report.failures}
    assert found.get(case) == verdict, found


def test_a_ciou_with_guards_passes():
    report = stress(partial(ciou, eps=1e-7, height_eps=1e-7), "boxes", dtypes=[torch.float32])
    assert failing(report) == {"no boxes"}


def test_a_guard_that_float16_rounds_to_zero_is_found():
    def guarded(x):
        return x / x.abs().clamp(min=1e-16)

    assert stress(guarded, "elementwise", dtypes=[torch.float32]).ok
    assert "zeros" in failing(stress(guarded, "elementwise", dtypes=[torch.float16]))


def test_the_smallest_input_of_naive_mish_is_one_hundred():
    smallest = stress(naive_mish, "elementwise", dtypes=[torch.float32]).smallest
    assert [value.tolist() for value in smallest.inputs] == [[100.0]]
    assert repr(smallest).startswith("Smallest(gradient is NaN in float32 at [100.0]; from case")


def test_the_simplest_number_below_zero_is_minus_one():
    def positive(x):
        return torch.where(x < 0, torch.nan, x)

    simpler = cases("elementwise")[0].simpler
    case = Case("below zero", (torch.tensor([-7.5, 3.5]),), simpler=simpler)
    smallest = stress(positive, [case], dtypes=[torch.float32]).smallest
    assert [value.tolist() for value in smallest.inputs] == [[-1.0]]


def test_the_smallest_input_still_fails_and_is_one_pixel():
    report = stress(dice_without_smoothing, "probabilities", dtypes=[torch.float32])
    p, target = report.smallest.inputs
    assert (p.tolist(), target.tolist()) == ([[[[0.0]]]], [[[[0.0]]]])
    assert dice_without_smoothing(p, target).isnan()
    assert report.smallest.values == 2


def test_the_smallest_row_is_picked_out_of_a_batch():
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(1000, 1)
    boxes[617] = torch.tensor([3.0, 3, 3, 3])
    case = Case("a point among boxes", (boxes, boxes + 1))
    report = stress(partial(ciou, eps=0.0), [case], dtypes=[torch.float32])
    assert report.smallest.inputs[0].tolist() == [[3.0, 3.0, 3.0, 3.0]]
    assert report.smallest.inputs[1].tolist() == [[4.0, 4.0, 4.0, 4.0]]


def test_an_empty_input_is_the_smallest_only_when_nothing_else_fails():
    assert stress(F.mse_loss, "boxes", dtypes=FULL).smallest.values == 0
    assert stress(naive_mish, "elementwise").smallest.values == 1


def test_a_loss_that_raises_is_a_failure_with_its_words():
    def refuses(x, y):
        if len(x) < 2:
            raise ValueError("two rows at least")
        return (x - y).sum()

    report = stress(refuses, "boxes", dtypes=[torch.float32])
    assert "raised ValueError: two rows at least" in {o.verdict for o in report.failures}
    assert "huge batch" not in failing(report)


def test_a_dtype_for_which_pytorch_has_no_kernel_is_skipped():
    def only_wide(x):
        if x.dtype == torch.float16:
            raise RuntimeError("\"wide\" not implemented for 'Half'")
        return x

    report = stress(only_wide, [Case("one", (torch.ones(1),))])
    assert report.ok
    assert report.outcomes[1].verdict.startswith("skipped: raised RuntimeError")
    assert report.outcomes[1].value is None


def test_what_a_case_allows_is_no_failure():
    x = torch.zeros(1)
    for allows, ok in (("finite", False), ("infinite", True), ("nan", True)):
        report = stress(torch.log, [Case("zero", (x,), allows)], dtypes=[torch.float32])
        assert report.ok == ok
    assert report.outcomes[0].verdict == "value is infinite, as allowed"
    assert not stress(lambda x: x / x, [Case("zero", (x,), "infinite")]).ok
    assert not stress(lambda x: x.detach(), [Case("zero", (x,), "nan")]).ok


def test_wrt_names_the_predictions():
    pair = (torch.ones(2), torch.zeros(2))
    loss = lambda a, b: (a + b.sqrt()).sum()  # noqa: E731
    assert stress(loss, [Case("first", pair)]).ok
    assert not stress(loss, [Case("both", pair, wrt=(0, 1))]).ok
    assert not stress(loss, [Case("last", pair, wrt=(-1,))]).ok


def test_the_table_has_a_row_per_case_and_dtype():
    table = stress(F.mish, "elementwise").table()
    assert len(table) == 3 * len(cases("elementwise"))
    assert list(table.columns) == [
        "case",
        "dtype",
        "value",
        "finite value",
        "max |grad|",
        "finite gradient",
        "failed",
        "verdict",
    ]
    assert table.set_index(["case", "dtype"]).loc[("1000", "float32"), "value"] == 1000


def test_it_leaves_no_trace_and_two_calls_agree():
    weight = torch.nn.Parameter(torch.ones(1))
    case = Case("ones", (torch.ones(3),))
    before = torch.get_rng_state()
    noisy = lambda x: (F.dropout(x, 0.5) * weight).mul_(2)  # noqa: E731
    a, b = (stress(noisy, [case]) for _ in range(2))
    assert a.outcomes == b.outcomes
    assert torch.equal(before, torch.get_rng_state())
    assert weight.grad is None
    stress(lambda x: x.zero_(), [case])
    assert case.inputs[0].tolist() == [1, 1, 1]
    assert not case.inputs[0].requires_grad


@pytest.mark.parametrize("family", ["logits", "binary", "probabilities", "boxes", "elementwise"])
def test_the_names_within_a_family_are_distinct(family):
    names = [case.name for case in cases(family)]
    assert len(set(names)) == len(names) > 10


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="family 'boxs' not found; did you mean 'boxes'"):
        stress(F.mse_loss, "boxs")
    with pytest.raises(ValueError, match="expected one of logits, binary"):
        cases("zzz")
    with pytest.raises(ValueError, match="got 0 cases and 3 dtypes"):
        stress(F.mse_loss, [])
    with pytest.raises(TypeError, match=r"expected floating-point dtypes, got torch\.int64"):
        stress(F.mish, "elementwise", dtypes=[torch.int64])
    with pytest.raises(TypeError, match="expected the loss to return a tensor, got float"):
        stress(lambda x: 0.5, "elementwise")
    with pytest.raises(ValueError, match="expected allows to be one of"):
        Case("odd", (torch.ones(1),), allows="anything")
    with pytest.raises(TypeError, match=r"input 0 to be a floating-point tensor, got torch.int64"):
        Case("odd", (torch.ones(1).long(),))
    with pytest.raises(TypeError, match=r"input 1 to be a floating-point tensor, got NoneType"):
        Case("odd", (torch.ones(1),), wrt=(1,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_on_a_gpu():
    report = stress(naive_mish, "elementwise", device="cuda")
    assert report.smallest.inputs[0].device.type == "cuda"
    assert report.smallest.inputs[0].tolist() == [100.0]


def test_a_loss_that_writes_over_its_inputs_gets_fresh_ones_every_time():
    prediction, target = torch.ones(3), torch.full((3,), 2.0)
    nested = {"boxes": [torch.full((2,), 5.0)], "names": ["a"]}
    seen = []

    def writes(x, y, more):
        seen.append((x.tolist(), y.tolist(), more["boxes"][0].tolist(), list(more["names"])))
        more["boxes"][0].add_(1)
        more["names"].append("b")
        more["left"] = True
        return (x.mul_(2) - y.add_(1)).square().mean()

    case = Case("ones", (prediction, target, nested))
    report = stress(writes, [case, case])
    assert report.ok, report
    assert seen == [([1, 1, 1], [2, 2, 2], [5, 5], ["a"])] * 6
    assert [outcome.value for outcome in report.outcomes] == [1.0] * 6
    assert (prediction.tolist(), target.tolist()) == ([1, 1, 1], [2, 2, 2])
    assert nested["names"] == ["a"]
    assert "left" not in nested
    assert nested["boxes"][0].tolist() == [5, 5]


def test_what_is_shrunk_is_what_failed_and_not_what_the_loss_made_of_it():
    def writes(x):
        return x.sub_(1).sqrt().sum()  # NaN below 1, and a gradient at 1 that is infinite

    smallest = stress(writes, [Case("half", (torch.tensor([4.0, 0.5]),))]).smallest
    assert [value.tolist() for value in smallest.inputs] == [[0.5]]
