"""Look at networks whose parameters are averaged over ranks, or held by them in parts."""

import pytest
import torch

from labs.ddp import launch
from labs.hooks import gradient_health
from labs.train import cross_entropy
from tests.hooks import sharded


@pytest.fixture(scope="module")
def said_by_rank():
    """Return what each of two ranks saw, as one tuple per rank."""
    return launch(sharded.everything, 2)


def test_what_ddp_averages_is_not_edited_by_any_way_in(said_by_rank):
    for said, _, _ in said_by_rank:
        for way in ("wrapper", "module", "layer"):
            for words in said[way]:
                assert words.startswith("TypeError: edit_gradients: expected a model outside of")
                assert "parameters that it owns (also its `.module`); change .grad after" in words
        assert said["left"] == [True] * 4  # it was refused before anything happened
        assert said["beside"] == pytest.approx(said["expected"])
        assert said["expected"] > 0


def test_what_fully_shard_divides_is_judged_as_a_whole_or_refused(said_by_rank):
    whole = sharded.network()
    cross_entropy(whole, sharded.batch()).backward()
    expected = gradient_health(whole).table()
    for rank, (_, said, _) in enumerate(said_by_rank):
        found = said["health"]
        for column in ("grad_norm", "weight_norm", "ratio", "zeros"):
            assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-6)
        for column in ("parameter", "shape", "verdict"):
            assert found[column].tolist() == expected[column].tolist()
        images, _ = sharded.mine(rank)
        torch.testing.assert_close(said["captured"], whole[2](whole[1](whole[0](images))).detach())
        for when in ("apart", "together", "inner"):
            for verb, words in zip(("first_bad", "grad_cam", "edit_grad"), said[when], strict=True):
                assert words.startswith(f"TypeError: {verb}"), (when, words)
                assert ": expected whole parameters, got " in words
                assert "before it is divided" in words or "requires_grad_(False) before" in words
        row, nan = said["distributed map"]
        assert (row["shape"], row["mean"], row["max"], row["zeros"], nan) == ((2, 2), 1, 3, 0.5, 1)


def test_what_fsdp_flattens_is_refused(said_by_rank):
    for _, _, said in said_by_rank:
        assert len(said) == 12
        assert all("expected parameters in their own shapes" in words for words in said), said
