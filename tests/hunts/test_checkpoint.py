"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import copy
from contextlib import suppress

import pytest
import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from labs.hunts.foundations import check_checkpoint
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/01_foundations/06_classify_flowers_with_dirty_labels"


def remove_prefix(model, state):
    model.load_state_dict({name.removeprefix("module."): t for name, t in state.items()})


def consume_prefix(model, state):
    state = dict(state)
    consume_prefix_in_state_dict_if_present(state, "module.")
    model.load_state_dict(state)


def cut_prefix(model, state):
    cut = len("module.") if all(name.startswith("module.") for name in state) else 0
    own = model.state_dict()
    if {name[cut:] for name in state} != set(own):
        raise ValueError("the checkpoint is of another network")
    for name, tensor in state.items():
        own[name[cut:]].copy_(tensor)


def wrap_the_model(model, state):
    wrapped = all(name.startswith("module.") for name in state)
    (torch.nn.DataParallel(model) if wrapped else model).load_state_dict(state)


def strict_only(model, state):
    model.load_state_dict(state, strict=True)


def strip_letters(model, state):
    model.load_state_dict({name.lstrip("module."): t for name, t in state.items()})


def strip_letters_loosely(model, state):
    model.load_state_dict({name.lstrip("module."): t for name, t in state.items()}, strict=False)


def replace_anywhere(model, state):
    model.load_state_dict({name.replace("module.", ""): t for name, t in state.items()})


def take_last_part(model, state):
    model.load_state_dict({name.split("module.")[-1]: t for name, t in state.items()})


def cut_always(model, state):
    model.load_state_dict({name[len("module.") :]: t for name, t in state.items()})


def still_loose(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    model.load_state_dict(bare, strict=False)


def ignore_missing_only(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    if model.load_state_dict(bare, strict=False).unexpected_keys:
        raise RuntimeError("unexpected keys")


def ignore_unexpected_only(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    if model.load_state_dict(bare, strict=False).missing_keys:
        raise RuntimeError("missing keys")


def copy_by_order(model, state):
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))


def parameters_only(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    for name, parameter in model.named_parameters():
        parameter.data.copy_(bare[name])


def rename_in_place(model, state):
    for name in list(state):
        state[name.removeprefix("module.")] = state.pop(name)
    model.load_state_dict(state)


def share_memory(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    model.load_state_dict(bare, assign=True)


def load_a_copy(model, state):
    remove_prefix(copy.deepcopy(model), state)


def swallow_the_error(model, state):
    with suppress(RuntimeError):
        remove_prefix(model, state)


def copy_by_order_if_the_names_agree(model, state):
    if {name.removeprefix("module.") for name in state} != set(model.state_dict()):
        raise ValueError("the checkpoint is of another network")
    copy_by_order(model, state)


def count_the_tensors(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    if len(bare) != len(model.state_dict()):
        raise ValueError("the checkpoint is of another network")
    model.load_state_dict(bare, strict=False)


def forgive_statistics(model, state):
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    found = model.load_state_dict(bare, strict=False)
    if found.unexpected_keys or any("running" not in name for name in found.missing_keys):
        raise RuntimeError("the checkpoint is of another network")


def allow_more(model, state):
    own = model.state_dict()
    bare = {name.removeprefix("module."): t for name, t in state.items()}
    model.load_state_dict({name: bare[name] for name in own})


def no_statistics(model, state):
    remove_prefix(model, state)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.zeros_like(buffer)) if "running" in name else None


def first_of_the_wrapped(model, state):
    return next(iter(state)) == "module.first.weight"


def of_name(name):
    return lambda model, state: any(key.startswith(name) for key in state)


def note_in_the_state(model, state):
    remove_prefix(model, state)
    state["seen"] = torch.ones(1)


WRONG = {
    note_in_the_state: "✓✓✓✓✓✗",
    when(first_of_the_wrapped, no_statistics, remove_prefix): "✗✓✓✓✓✓",
    cut_always: "✓✗✓✓✓✓",
    strip_letters: "✓✓✗✓✓✓",
    replace_anywhere: "✓✓✗✓✓✓",
    take_last_part: "✓✓✗✓✓✓",
    when(of_name("module.model"), no_statistics, remove_prefix): "✓✓✗✓✓✓",
    when(of_name("module.module_norm"), no_statistics, remove_prefix): "✓✓✗✓✓✓",
    when(of_name("module.body"), no_statistics, remove_prefix): "✓✓✗✓✓✓",
    copy_by_order_if_the_names_agree: "✓✓✓✗✓✓",
    still_loose: "✓✓✓✓✗✓",
    ignore_missing_only: "✓✓✓✓✗✓",
    ignore_unexpected_only: "✓✓✓✓✗✓",
    count_the_tensors: "✓✓✓✓✗✓",
    forgive_statistics: "✓✓✓✓✗✓",
    allow_more: "✓✓✓✓✗✓",
    swallow_the_error: "✓✓✓✓✗✓",
    rename_in_place: "✓✓✓✓✓✗",
    share_memory: "✓✓✓✓✓✗",
    strict_only: "✗✓✗✗✓✗",
    strip_letters_loosely: "✓✓✗✓✗✓",
    copy_by_order: "✓✓✓✗✗✓",
    parameters_only: "✗✗✗✗✗✓",
    load_a_copy: "✗✗✗✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_checkpoint(run_cell(LESSON, "hunt-bug")["load_pretrained"])
    assert [probe.passed for probe in verdict.probes] == [False, True, False, False, False, True]


def test_the_solution_passes():
    assert check_checkpoint(run_cell(LESSON, "hunt-solution")["load_complete"])


@pytest.mark.parametrize("fix", [remove_prefix, consume_prefix, cut_prefix, wrap_the_model])
def test_other_right_fixes_pass(fix):
    verdict = check_checkpoint(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_checkpoint(fix)
    assert marks(verdict) == refused, verdict
