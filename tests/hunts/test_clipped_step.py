"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from labs.hunts.engineering import check_clipped_step
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/06_engineering/05_train_on_many_devices"


def accumulate(model, optimizer, scaler, batches, loss_fn):
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in batches)
    for images, labels in batches:
        scaler.scale(loss_fn(model(images), labels) * len(labels) / samples).backward()


def finish(optimizer, scaler):
    scaler.step(optimizer)
    scaler.update()


def raise_the_limit(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scale = scaler.get_scale()
    norm = clip_grad_norm_(model.parameters(), max_norm * scale) / scale
    finish(optimizer, scaler)
    return norm.item()


def clip_by_hand(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    gradients = [p.grad for p in model.parameters()]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for gradient in gradients:
        gradient *= (max_norm / norm).clamp(max=1)
    finish(optimizer, scaler)
    return norm.item()


def do_not_clip(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), float("inf"))
    finish(optimizer, scaler)
    return norm.item()


def clip_after_the_step(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.step(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    scaler.update()
    return norm.item()


def unscale_each_micro_batch(model, optimizer, scaler, batches, loss_fn, max_norm):
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in batches)
    for images, labels in batches:
        scaler.scale(loss_fn(model(images), labels) * len(labels) / samples).backward()
        scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def unscale_after_the_first(model, optimizer, scaler, batches, loss_fn, max_norm):
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in batches)
    for i, (images, labels) in enumerate(batches):
        scaler.scale(loss_fn(model(images), labels) * len(labels) / samples).backward()
        if i == 0:
            scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def divide_twice(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    for parameter in model.parameters():
        parameter.grad /= scaler.get_scale()
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def step_past_the_scaler(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    scaler.update()
    return norm.item()


def drop_the_scaler(model, optimizer, scaler, batches, loss_fn, max_norm):
    off = torch.amp.GradScaler("cpu", enabled=False)
    accumulate(model, optimizer, off, batches, loss_fn)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    if norm.isfinite():
        optimizer.step()
    return norm.item()


def forget_the_update(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    return norm.item()


def mean_of_means(model, optimizer, scaler, batches, loss_fn, max_norm):
    optimizer.zero_grad()
    for images, labels in batches:
        scaler.scale(loss_fn(model(images), labels) / len(batches)).backward()
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def return_the_clipped_norm(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return min(norm.item(), max_norm)


def clip_values(model, optimizer, scaler, batches, loss_fn, max_norm):
    accumulate(model, optimizer, scaler, batches, loss_fn)
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), float("inf"))
    torch.nn.utils.clip_grad_value_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def keep_the_gradients(model, optimizer, scaler, batches, loss_fn, max_norm):
    samples = sum(len(labels) for _, labels in batches)
    for images, labels in batches:
        scaler.scale(loss_fn(model(images), labels) * len(labels) / samples).backward()
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    finish(optimizer, scaler)
    return norm.item()


def right_but(spoil=lambda model, norm, limit, scale: None, told=1.0):
    """Build a right step that changes the gradients at last, or the norm it tells."""

    def train_step(model, optimizer, scaler, batches, loss_fn, max_norm):
        samples = sum(len(labels) for _, labels in batches)
        optimizer.zero_grad()
        for images, labels in batches:
            scaler.scale(loss_fn(model(images), labels) * len(labels) / samples).backward()
        scaler.unscale_(optimizer)
        norm = clip_grad_norm_(model.parameters(), max_norm).item()
        spoil(model, norm, max_norm, scaler.get_scale())
        finish(optimizer, scaler)
        return told * norm

    return train_step


def scaled_by(factor, condition):
    def spoil(model, norm, limit, scale):
        for parameter in model.parameters():
            parameter.grad *= factor if condition(norm, limit, scale) else 1.0

    return spoil


def turned(model, norm, limit, scale):
    """Keep the length, and turn the direction by about a hundredth."""
    if norm > limit and scale == 2.0**16:
        parts = [p.grad for p in model.parameters()]
        length = torch.cat([g.flatten() for g in parts]).norm()
        for g in parts:
            g[0] += 0.01 * length
        longer = torch.cat([g.flatten() for g in parts]).norm()
        for g in parts:
            g *= length / longer


def creep(model, optimizer, *others):
    """Move by a millionth where there should be no step."""
    norm = right_but()(model, optimizer, *others)
    if not math.isfinite(norm):
        for parameter in model.parameters():
            parameter.grad.fill_(1e-6)
        optimizer.step()
    return norm


def tell_nothing(*given):
    right_but()(*given)


WRONG = {
    right_but(turned): "✗✓✓✓✓✓",
    right_but(scaled_by(1.01, lambda norm, limit, _: norm < limit)): "✓✗✓✓✓✓",
    right_but(scaled_by(0.99, lambda _, limit, scale: scale == 2.0**10)): "✓✓✗✓✓✓",
    return_the_clipped_norm: "✓✓✓✗✓✓",
    right_but(told=1.01): "✓✓✓✗✓✓",
    right_but(told=0.99): "✓✓✓✗✓✓",
    step_past_the_scaler: "✓✓✓✓✗✓",
    drop_the_scaler: "✓✓✓✓✗✓",
    creep: "✓✓✓✓✗✓",
    keep_the_gradients: "✓✓✓✓✓✗",
    do_not_clip: "✗✓✓✓✓✗",
    clip_after_the_step: "✗✓✓✓✓✗",
    unscale_each_micro_batch: "✗✗✗✗✗✗",
    unscale_after_the_first: "✗✗✓✗✗✗",
    divide_twice: "✗✗✗✓✓✗",
    forget_the_update: "✓✓✓✓✗✗",
    mean_of_means: "✗✗✓✗✓✗",
    clip_values: "✗✓✓✓✓✗",
    tell_nothing: "✗✗✗✗✓✗",
}


def test_the_planted_bug_fails():
    verdict = check_clipped_step(run_cell(LESSON, "hunt-bug")["train_step"])
    assert [probe.passed for probe in verdict.probes] == [False] * 4 + [True, False]


def test_the_solution_passes():
    assert check_clipped_step(run_cell(LESSON, "hunt-solution")["step_in_true_units"])


@pytest.mark.parametrize("fix", [raise_the_limit, clip_by_hand])
def test_other_right_fixes_pass(fix):
    verdict = check_clipped_step(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_clipped_step(fix)
    assert marks(verdict) == refused, verdict
