"""Look at networks whose parameters are averaged over ranks, or held by them in parts."""

import pytest
import torch

from labs.ddp import launch
from labs.hooks import gradient_health
from labs.train import cross_entropy
from tests.hooks import sharded


def test_what_ddp_averages_is_not_edited_by_any_way_in():
    for said in launch(sharded.edit_averaged, 2):
        for way in ("wrapper", "module", "layer"):
            for words in said[way]:
                assert words.startswith("TypeError: edit_gradients: expected a model outside of")
                assert "parameters that it owns (also its `.module`); change .grad after" in words
        assert said["left"] == [True] * 4  # it was refused before anything happened
        assert said["beside"] == pytest.approx(said["expected"])
        assert said["expected"] > 0


def test_what_fully_shard_divides_is_judged_as_a_whole_or_refused():
    whole = sharded.network()
    cross_entropy(whole, sharded.batch()).backward()
    expected = gradient_health(whole).table()
    for rank, said in enumerate(launch(sharded.divided, 2)):
        found = said["health"]
        for column in ("grad_norm", "weight_norm", "ratio", "zeros"):
            assert found[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-6)
        for column in ("parameter", "shape", "verdict"):
            assert found[column].tolist() == expected[column].tolist()
        images, _ = sharded.mine(rank)
        torch.testing.assert_close(said["captured"], whole[2](whole[1](whole[0](images))).detach())
        for verb, fix in (("first_bad", "before it is divided"), ("grad_cam", "before it is")):
            assert said[verb].startswith(f"TypeError: {verb}: expected whole parameters, got '0.w")
            assert fix in said[verb]
        assert said["edit"].startswith("TypeError: edit_gradients: expected whole parameters")
        row, nan = said["distributed map"]
        assert (row["shape"], row["mean"], row["max"], row["zeros"], nan) == ((2, 2), 1, 3, 0.5, 1)


def test_what_fsdp_flattens_is_refused():
    for said in launch(sharded.flattened, 2):
        assert len(said) == 12
        assert all("expected parameters in their own shapes" in words for words in said), said
