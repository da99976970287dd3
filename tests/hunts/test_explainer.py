"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.hooks import capture
from labs.hunts.engineering import check_explainer
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/06_engineering/01_intercept_with_hooks"


def heat(maps, gradient):
    return (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()


class Base:
    """Hold the model and the lists; each fix below is one way to call."""

    def __init__(self, model, layer):
        self.model, self.layer, self.name = model, model.get_submodule(layer), layer
        self.maps, self.gradients = [], []

    def keep(self, module, inputs, output):
        self.maps.append(output)
        output.register_hook(self.gradients.append)

    def score(self, images, label):
        return self.model(images)[:, label].sum()


class TensorHook(Base):
    """A right fix, with a hook on the tensor and every call's own lists."""

    def __call__(self, images, label):
        maps, gradients = [], []

        def keep(module, inputs, output):
            output.register_hook(gradients.append)
            maps.append(output)

        handle = self.layer.register_forward_hook(keep)
        try:
            score = self.score(images, label)
            torch.autograd.grad(score, maps[0])
        finally:
            handle.remove()
        return heat(maps[0], gradients[0])


class WithCapture(Base):
    """A right fix that saves and restores every gradient around `backward`."""

    def __call__(self, images, label):
        saved = [p.grad for p in self.model.parameters()]
        for parameter in self.model.parameters():
            parameter.grad = None
        try:
            with capture(self.model, self.name, gradients=True) as maps:
                self.score(images, label).backward()
        finally:
            for parameter, grad in zip(self.model.parameters(), saved, strict=True):
                parameter.grad = grad
        return heat(maps[self.name], maps.gradient(self.name))


class LastInsteadOfFirst(Base):
    def __call__(self, images, label):
        self.layer.register_forward_hook(self.keep)
        self.score(images, label).backward()
        return heat(self.maps[-1], self.gradients[-1])


class RegisterInInit(Base):
    def __init__(self, model, layer):
        super().__init__(model, layer)
        self.layer.register_forward_hook(self.keep)

    def __call__(self, images, label):
        self.maps.clear()
        self.gradients.clear()
        torch.autograd.grad(self.score(images, label), self.maps[0], retain_graph=True)
        return heat(self.maps[0], self.gradients[0])


class ClearAllHooks(Base):
    def __call__(self, images, label):
        self.layer._forward_hooks.clear()
        maps = []
        self.layer.register_forward_hook(lambda m, i, o: maps.append(o))
        score = self.score(images, label)
        self.layer._forward_hooks.clear()
        return heat(maps[0], torch.autograd.grad(score, maps[0])[0])


class RemoveWithoutFinally(Base):
    def __call__(self, images, label):
        maps = []
        handle = self.layer.register_forward_hook(lambda m, i, o: maps.append(o))
        score = self.score(images, label)
        handle.remove()
        return heat(maps[0], torch.autograd.grad(score, maps[0])[0])


class ForgetsTheLists(Base):
    def __call__(self, images, label):
        handle = self.layer.register_forward_hook(lambda m, i, o: self.maps.append(o))
        try:
            score = self.score(images, label)
        finally:
            handle.remove()
        return heat(self.maps[0], torch.autograd.grad(score, self.maps[-1])[0])


class StillBackward(Base):
    def __call__(self, images, label):
        self.maps.clear()
        self.gradients.clear()
        handle = self.layer.register_forward_hook(self.keep)
        try:
            self.score(images, label).backward()
        finally:
            handle.remove()
        return heat(self.maps[0], self.gradients[0])


class ZeroGrad(StillBackward):
    def __call__(self, images, label):
        drawn = super().__call__(images, label)
        self.model.zero_grad()
        return drawn


class RemembersTheAnswer(Base):
    def __call__(self, images, label):
        if not self.maps:
            self.maps.append(TensorHook(self.model, self.name)(images, label))
        return self.maps[0]


class SwallowsErrors(Base):
    def __call__(self, images, label):
        try:
            return TensorHook(self.model, self.name)(images, label)
        except RuntimeError:
            return torch.zeros(images.shape[0], *images.shape[2:])


class FreezesTheModel(Base):
    def __call__(self, images, label):
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        return TensorHook(self.model, self.name)(images.clone().requires_grad_(), label)


class WeighsWithoutMean(Base):
    def __call__(self, images, label):
        maps = []
        handle = self.layer.register_forward_hook(lambda m, i, o: maps.append(o))
        try:
            score = self.score(images, label)
        finally:
            handle.remove()
        gradient = torch.autograd.grad(score, maps[0])[0]
        return (gradient * maps[0]).sum(1).relu().detach()


class OneHookForEver(Base):
    registered = False

    def __call__(self, images, label):
        if not self.registered:
            self.layer.register_forward_hook(self.keep)
            self.registered = True
        self.maps.clear()
        score = self.score(images, label)
        return heat(self.maps[0], torch.autograd.grad(score, self.maps[0])[0])


class WrongForTwo(TensorHook):
    def __call__(self, images, label):
        return super().__call__(images, label) * (1.001 if len(images) == 2 else 1.0)


class WrongForWide(TensorHook):
    def __call__(self, images, label):
        return super().__call__(images, label) * (1.001 if images.shape[-1] == 8 else 1.0)


class WrongForTheLastClass(TensorHook):
    def __call__(self, images, label):
        return super().__call__(images, label) * (1.001 if label == 2 else 1.0)


class SharesTheLastMap(TensorHook):
    """Keep the last map for all explainers, and give it to whoever comes next."""

    last = (None, None, None)

    def __call__(self, images, label):
        model, owner, drawn = SharesTheLastMap.last
        right = super().__call__(images, label)
        SharesTheLastMap.last = (self.model, self, right)
        return drawn if model is self.model and owner is not self else right


class ForgetsToRemove(Base):
    """Remove the hook only when something went wrong."""

    def __call__(self, images, label):
        maps = []
        handle = self.layer.register_forward_hook(lambda m, i, o: maps.append(o))
        try:
            score = self.score(images, label)
        except BaseException:
            handle.remove()
            raise
        return heat(maps[0], torch.autograd.grad(score, maps[0])[0])


class ClearsAllInFinally(Base):
    def __call__(self, images, label):
        maps = []
        self.layer._forward_hooks.clear()
        self.layer.register_forward_hook(lambda m, i, o: maps.append(o))
        try:
            score = self.score(images, label)
        finally:
            self.layer._forward_hooks.clear()
        return heat(maps[0], torch.autograd.grad(score, maps[0])[0])


class FillsWhatIsEmpty(TensorHook):
    def __call__(self, images, label):
        drawn = super().__call__(images, label)
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.ones_like(parameter)
        return drawn


class BreaksAfterAnError(TensorHook):
    broken = False

    def __call__(self, images, label):
        try:
            return super().__call__(images, label) * (1.001 if self.broken else 1.0)
        except RuntimeError:
            self.broken = True
            raise


class AThousandthOff(TensorHook):
    def __call__(self, images, label):
        return super().__call__(images, label) * 1.001


class WrapsTheError(TensorHook):
    def __call__(self, images, label):
        try:
            return super().__call__(images, label)
        except RuntimeError as error:
            raise RuntimeError("no map") from error


WRONG = {
    WrongForTwo: "✗✓✓✓✓✓✓✓",
    WrongForWide: "✓✗✓✓✓✓✓✓",
    WrongForTheLastClass: "✓✓✗✓✓✓✓✓",
    SharesTheLastMap: "✓✓✓✗✓✓✓✓",
    ForgetsToRemove: "✓✓✓✓✗✓✓✓",
    RemoveWithoutFinally: "✓✓✓✓✓✗✓✓",
    SwallowsErrors: "✓✓✓✓✓✗✓✓",
    WrapsTheError: "✓✓✓✓✓✗✓✓",
    BreaksAfterAnError: "✓✓✓✓✓✗✓✓",
    ClearsAllInFinally: "✓✓✓✓✓✓✗✓",
    StillBackward: "✓✓✓✓✓✓✓✗",
    ZeroGrad: "✓✓✓✓✓✓✓✗",
    FillsWhatIsEmpty: "✓✓✓✓✓✓✓✗",
    FreezesTheModel: "✓✓✓✓✓✓✓✗",
    LastInsteadOfFirst: "✓✓✓✓✗✗✓✗",  # hooks stay, after an error too, and .grad
    RegisterInInit: "✓✓✓✓✗✗✓✓",
    ClearAllHooks: "✓✓✓✓✓✗✗✓",  # those of others, and its own when the model raises
    ForgetsTheLists: "✓✗✓✗✓✗✓✓",
    RemembersTheAnswer: "✓✗✗✗✓✓✓✓",
    WeighsWithoutMean: "✗✗✗✗✓✗✓✓",
    OneHookForEver: "✓✓✓✓✗✗✓✓",
    AThousandthOff: "✗✗✗✗✓✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_explainer(run_cell(LESSON, "hunt-bug")["Explainer"])
    failed = [not probe.passed for probe in verdict.probes]
    assert failed == [False, True, True, True, True, True, False, True]


def test_the_solution_passes():
    verdict = check_explainer(run_cell(LESSON, "hunt-solution")["CleanExplainer"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [TensorHook, WithCapture])
def test_other_right_fixes_pass(fix):
    verdict = check_explainer(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_explainer(fix)
    assert marks(verdict) == refused, verdict


def test_a_swallowed_error_is_named():
    verdict = check_explainer(SwallowsErrors)
    assert [p.seen for p in verdict.probes if not p.passed] == [
        "the model raised, and the caller got None"
    ]
