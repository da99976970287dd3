"""Check a digit reader and its loss: the loss must be the cross entropy of the scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labs.hooks import capture
from labs.hunts import Verdict, examine
from labs.hunts.answer import loss_of, number_of, tensor_of
from labs.hunts.fix import Fix, Loss, MakeNet

CLASSES, _PARAMETERS, N, _STEPS = 10, 4_330, 16, 100


def check_digit_loss(make_net: MakeNet, loss: Loss) -> Verdict:
    """Check a digit reader together with the loss that trains it.

    Args:
        make_net: ``make_net()`` builds a module that maps images [N,1,28,28] to [N,10], whose last
            linear layer computes the ten scores.
        loss: ``loss(net, (images, labels))`` returns the scalar to minimise.

    Returns:
        The verdict of six probes: on sure answers, right and wrong, on any scores, on the gradient,
        on learning by heart, and on what must not change.
    """
    return examine(
        "the loss of a digit reader",
        Fix(make_net, loss),
        {
            "a sure and right answer costs nothing": _right_is_free,
            "a sure and wrong answer costs as much as its scores say": _wrong_is_dear,
            "for any scores, the loss has the right value": _value_is_right,
            "each score gets the gradient of that value": _gradient_is_right,
            "sixteen pictures can be learned by heart": _learns_by_heart,
            "ten outputs, the largest at the largest score, no new parameters": _rest_is_as_before,
        },
    )


def _right_is_free(fix: Fix) -> str:
    cost = _cost_of_score(fix, score=30.0, of_the_right_digit=True)
    assert abs(cost) < 1e-4, f"with a score of 30 for the right digit, the loss is {cost:.4f}"
    return f"with a score of 30 for the right digit, the loss is {abs(cost):.4f}"


def _wrong_is_dear(fix: Fix) -> str:
    cost = _cost_of_score(fix, score=200.0, of_the_right_digit=False)
    seen = f"with a score of 200 for a wrong digit, the loss is {cost:.2f}"
    assert abs(cost - 200) < 0.01, seen
    return seen


def _value_is_right(fix: Fix) -> str:
    got, scores, _, labels = _run(fix)
    expected = _cross_entropy(scores, labels).item()
    assert abs(got - expected) < 1e-4, f"expected {expected:.4f}, got {got:.4f}"
    return f"{got:.4f}, as it should be"


def _gradient_is_right(fix: Fix) -> str:
    _, scores, gradient, labels = _run(fix)
    expected = (scores.softmax(1) - nn.functional.one_hot(labels, CLASSES)) / N
    share = (gradient.norm() / expected.norm()).item()
    worst = (gradient - expected).abs().max().item()
    assert worst < 1e-5, f"it has {share:.2f} times the expected length, and is off by {worst:.4f}"
    return "it does"


def _learns_by_heart(fix: Fix) -> str:
    net, batch = fix.make_net(), _batch()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss_of(fix.loss(net, batch)).backward()
        optimizer.step()
    last = number_of(fix.loss(net, batch), "the loss")
    assert abs(last) < 0.05, f"after {_STEPS} steps the loss is {last:.3f}"
    return f"after {_STEPS} steps the loss is {abs(last):.3f}"


def _rest_is_as_before(fix: Fix) -> str:
    net, (images, _) = fix.make_net(), _batch()
    with torch.no_grad(), capture(net, _scoring(net)) as maps:
        outputs = tensor_of(net(images), (N, CLASSES))
    agree = (outputs.argmax(1) == maps[_scoring(net)].argmax(1)).sum().item()
    assert agree == N, f"the largest output names the largest score for {agree} of {N} pictures"
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters == _PARAMETERS, f"expected {_PARAMETERS} parameters, got {parameters}"
    return "all as before"


def _cost_of_score(fix: Fix, score: float, of_the_right_digit: bool) -> float:
    """Return the loss when one digit has this score, the others have 0, and the picture is a 3."""
    net, (images, labels) = fix.make_net(), _batch()
    last = net.get_submodule(_scoring(net))
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[3 if of_the_right_digit else 5] = score
        return number_of(fix.loss(net, (images, torch.full_like(labels, 3))), "the loss")


def _run(fix: Fix) -> tuple[float, Tensor, Tensor, Tensor]:
    """Return the loss on a batch, the scores, their gradient, and the labels."""
    net, (images, labels) = fix.make_net(), _batch()
    name = _scoring(net)
    with torch.no_grad():  # larger scores than at initialisation, where every softmax is flat
        for parameter in net.get_submodule(name).parameters():
            parameter.mul_(10)
    with capture(net, name, gradients=True) as maps:
        value = loss_of(fix.loss(net, (images, labels)))
        value.backward()
    return value.item(), maps[name], maps.gradient(name), labels


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    rows = torch.arange(len(labels))
    return (scores.logsumexp(1) - scores[rows, labels]).mean()


def _scoring(net: nn.Module) -> str:
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    assert linear, "expected a linear layer that computes the scores, got none"
    return linear[-1]


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(N, 1, 28, 28, generator=generator), torch.arange(N) % CLASSES
