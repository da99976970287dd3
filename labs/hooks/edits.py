"""Edit gradients on their way into ``.grad``: freeze, scale, clip, or add noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from labs.hooks.layers import bare, expand, refuse_other_than_name
from labs.hooks.ranks import refuse_averaged, refuse_sharded
from labs.hooks.scaling import LossScale, loss_scale

Edit = Callable[[list[Tensor]], list[Tensor]]
"""From the gradients of all parameters under one key, in the order of the model, to new ones."""

_AFTER_BACKWARD = (
    "change .grad after backward(), for example with torch.nn.utils.clip_grad_norm_; to freeze, "
    "use requires_grad_(False) before the model is wrapped"
)

_in_use: set[int] = set()  # the ids of all parameters whose gradients some block edits


def clip_norm(max_norm: float) -> Edit:
    """Return an edit that shrinks gradients so that their joint Euclidean norm is in bounds.

    The norm is that of all gradients under the key together, as in
    ``torch.nn.utils.clip_grad_norm_``; for a norm per module, give each its own key.

    Raises:
        ValueError: When ``max_norm`` is not above zero.
    """
    _refuse_below_zero("clip_norm", max_norm)

    def clip(gradients: list[Tensor]) -> list[Tensor]:
        factor = max_norm / (torch.nn.utils.get_total_norm(gradients) + 1e-6)
        return [gradient * factor.clamp(max=1).to(gradient.device) for gradient in gradients]

    return clip


def clip_value(limit: float) -> Edit:
    """Return an edit that cuts every value of a gradient to [-limit, limit].

    An infinity stays one, unlike in ``torch.nn.utils.clip_grad_value_``: it is not large but
    wrong, and a ``GradScaler`` has to see it to skip the step.

    Raises:
        ValueError: When ``limit`` is not above zero.
    """
    _refuse_below_zero("clip_value", limit)
    return lambda gradients: [torch.where(g.isinf(), g, g.clamp(-limit, limit)) for g in gradients]


def add_noise(std: float, generator: torch.Generator) -> Edit:
    """Return an edit that adds Gaussian noise (Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807).

    Args:
        std: The standard deviation, above zero.
        generator: Where the noise is drawn from, so that the global random state stays as it is.

    Raises:
        ValueError: When ``std`` is not above zero.
    """
    _refuse_below_zero("add_noise", std)

    def noisy(gradient: Tensor) -> Tensor:
        noise = torch.randn(gradient.shape, generator=generator, device=generator.device)
        return gradient + std * noise.to(gradient)

    return lambda gradients: [noisy(gradient) for gradient in gradients]


@contextmanager
def edit_gradients(
    model: nn.Module, edits: Mapping[str, float | Edit], scale: LossScale = 1.0
) -> Iterator[None]:
    """Edit what every ``backward()`` in the block adds to ``.grad``.

    ::

        with edit_gradients(model, {"backbone": 0.0, "head": clip_norm(1.0)}):
            loss.backward()

    Each pass is edited on its own, as soon as it is complete, so an optimizer may step inside the
    block. What was in ``.grad`` before is not touched: when you accumulate several passes, the norm
    of each is clipped, not that of their sum. Nothing is edited any more after the block, also when
    something raised in it; a pass that raises adds zeros at most. ``torch.autograd.grad`` is never
    edited.

    A parameter under several keys goes through the edits of each, in the order of the mapping:
    ``{"": clip_norm(1.0), "head": 0.1}`` clips the norm of everything, and then scales the head. A
    parameter that several modules share is edited by the keys of all of them, once per key.

    Hooks of your own on a parameter (``Tensor.register_hook``) run before the edits.

    Args:
        model: Any module, also compiled, or in ``DataParallel``.
        edits: From the name of a module or of a parameter, or a pattern (``"layer*.bn1"``,
            ``"*.bias"``; ``""`` is everything), to what happens to its gradients:

            - a number scales them (-1.0 turns them round), and 0.0 freezes: nothing is added,
              ``.grad`` stays ``None`` when it was ``None``, and optimizers leave such a parameter
              alone, momentum and weight decay included;
            - :func:`clip_norm`, :func:`clip_value`, :func:`add_noise`, or a function of your own
              from the gradients under the key that this pass reached to as many of the same shapes.

            What requires no gradient is left out.
        scale: By what the loss is multiplied: a number, or the ``GradScaler``. Edits see the
            gradients divided by it; they go into ``.grad`` multiplied by it again.

    Raises:
        KeyError: When a key matches nothing; the message names the nearest ones.
        TypeError: When a key is not a name or an edit is neither a number nor a function. When the
            model is in ``DistributedDataParallel``, which averages gradients where this cannot see
            it, also if it was given as ``ddp.module``, or this rank holds only parts of parameters
            (FSDP).
        ValueError: When a key has no parameters, a number is not finite, the scale is not above
            zero, a parameter is already edited by a block around this one, or an edit returns
            other shapes.
        RuntimeError: In ``backward(create_graph=True)``, on sparse gradients, and when an
            optimizer takes ``.grad`` away before the pass is complete.
    """
    network = bare(model)
    refuse_sharded("edit_gradients", network, _AFTER_BACKWARD)
    loss_scale(scale)  # a wrong one is refused here, and not in the middle of backward()
    steps = _steps(network, edits)
    edited = (parameter for _, under, _ in steps for parameter in under)
    refuse_averaged("edit_gradients", edited, _AFTER_BACKWARD)
    with _Editor(steps, scale).watching():
        yield


class _Editor:
    """Hold back the gradients of one backward pass, and add them to ``.grad`` when all are in."""

    def __init__(self, steps: list[tuple[str, list[nn.Parameter], Edit]], scale: LossScale) -> None:
        self._steps = steps
        self._scale = scale
        self._passes: dict[int, dict[nn.Parameter, tuple[Tensor, bool]]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        parameters = dict.fromkeys(p for _, under, _ in self._steps for p in under)
        ids = set(map(id, parameters))
        if ids & _in_use:
            raise ValueError(
                "edit_gradients: a block around this one edits some of the same parameters; put "
                "all edits into one mapping"
            )
        # Hooks on the nodes that add to .grad: those on a tensor also run in autograd.grad.
        nodes = {parameter: get_gradient_edge(parameter).node for parameter in parameters}
        handles = [node.register_prehook(partial(self._hold, p)) for p, node in nodes.items()]
        _in_use.update(ids)
        try:
            yield
        finally:
            _in_use.difference_update(ids)
            for handle in handles:
                handle.remove()

    def _hold(self, parameter: nn.Parameter, gradients: tuple[Any, ...]) -> Any:
        (gradient,) = gradients
        if gradient is None:
            return None
        if torch.is_grad_enabled() or gradient.layout is not torch.strided:
            raise RuntimeError(
                "edit_gradients: expected dense gradients and backward() without create_graph, got "
                f"a {gradient.layout} gradient, create_graph={torch.is_grad_enabled()}; run this "
                "backward() outside of the block"
            )
        this_pass = torch._C._current_graph_task_id()  # one that raised has left its own behind
        if this_pass not in self._passes:
            self._passes[this_pass] = {}
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(partial(self._finish, this_pass))
        self._passes[this_pass][parameter] = (gradient, parameter.grad is None)
        return (torch.zeros_like(gradient),)

    def _finish(self, this_pass: int) -> None:
        arrived, scale = self._passes.pop(this_pass), loss_scale(self._scale)
        edited = {parameter: gradient / scale for parameter, (gradient, _) in arrived.items()}
        for key, under, edit in self._steps:
            reached = [parameter for parameter in under if parameter in edited]
            if edit is _freeze:
                for parameter in reached:
                    del edited[parameter]
            elif reached:
                before = [edited[parameter] for parameter in reached]
                edited.update(zip(reached, _checked(key, before, edit(before)), strict=True))
        for parameter, (_, was_none) in arrived.items():
            if parameter.grad is None:
                raise RuntimeError(
                    "edit_gradients: something took a parameter's .grad away during backward() (an "
                    "optimizer that steps in a hook?); let it step after backward()"
                )
            if parameter in edited:
                parameter.grad.add_(edited[parameter] * scale)
            elif was_none:
                parameter.grad = None


def _freeze(gradients: list[Tensor]) -> list[Tensor]:
    """Stand for the number 0.0, which is not a factor: nothing at all is added."""
    return gradients


def _steps(
    network: nn.Module, edits: Mapping[str, float | Edit]
) -> list[tuple[str, list[nn.Parameter], Edit]]:
    """Look up what each key stands for, and check each edit, before anything is hooked."""
    if not isinstance(edits, Mapping):
        raise TypeError(
            f"edit_gradients: expected a dict from names to edits, got a {type(edits).__name__}; "
            "for everything, use {'': clip_norm(1.0)}"
        )
    known = _parameters_by_name(network)
    named = dict(network.named_modules()) | dict(network.named_parameters())
    for key in edits:
        refuse_other_than_name(named, key, "a module or parameter")
    return [(key, _under(key, known), _as_edit(key, edit)) for key, edit in edits.items()]


def _as_edit(key: str, edit: float | Edit) -> Edit:
    if any(edit is maker for maker in (clip_norm, clip_value, add_noise)):
        raise TypeError(
            f"edit_gradients: expected an edit such as clip_norm(1.0) for {key!r}, got the "
            "function that makes one; call it with its limit"
        )
    if callable(edit):
        return edit
    if isinstance(edit, bool) or not isinstance(edit, Real):
        raise TypeError(
            f"edit_gradients: expected a number or an edit such as clip_norm(1.0) for {key!r}, "
            f"got {_shown(edit)}"
        )
    factor = float(edit)
    if not math.isfinite(factor):
        raise ValueError(f"edit_gradients: expected a finite number for {key!r}, got {edit}")
    return _freeze if factor == 0 else lambda gradients: [factor * g for g in gradients]


def _shown(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, (Tensor, nn.Module)) else repr(value)


def _parameters_by_name(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Map the name of each module, and of each parameter, to all parameters under it."""
    modules = model.named_modules(remove_duplicate=False)
    parameters = model.named_parameters(remove_duplicate=False)
    under = {name: list(module.parameters()) for name, module in modules}
    return under | {name: [parameter] for name, parameter in parameters}


def _under(key: str, known: dict[str, list[nn.Parameter]]) -> list[nn.Parameter]:
    names = expand(key, known, "edit_gradients: module or parameter")
    wanted = {parameter for name in names for parameter in known[name]}
    if not wanted:
        raise ValueError(f"edit_gradients: expected parameters under {key!r}, there are none")
    return [p for p in known[""] if p in wanted and p.requires_grad]


def _checked(key: str, before: list[Tensor], after: object) -> list[Tensor]:
    expected = [tuple(gradient.shape) for gradient in before]
    if not isinstance(after, (list, tuple)) or not all(isinstance(one, Tensor) for one in after):
        got = [type(one).__name__ for one in after] if isinstance(after, (list, tuple)) else after
        raise TypeError(
            f"edit_gradients: expected the edit of {key!r} to return a list of tensors, of shapes "
            f"{expected}, got {got if isinstance(after, (list, tuple)) else _shown(after)}"
        )
    if expected != (got := [tuple(gradient.shape) for gradient in after]):
        raise ValueError(
            f"edit_gradients: expected the edit of {key!r} to return one gradient for each it got, "
            f"of shapes {expected}, got {got}"
        )
    return list(after)


def _refuse_below_zero(what: str, value: float) -> None:
    if not isinstance(value, Real) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what}: expected a finite number above 0, got {_shown(value)}")
