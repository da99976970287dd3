import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from labs.ddp import accumulate, gather_exact, launch, shard
from labs.train import cross_entropy
from tests.ddp import sharing
from tests.models import TwoConvs


@given(st.integers(0, 200), st.integers(1, 17))
def test_every_sample_is_in_exactly_one_shard(n, world):
    shards = [shard(n, rank, world) for rank in range(world)]
    assert sorted(i for part in shards for i in part) == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_is_a_sampler():
    assert torch.cat(list(DataLoader(range(7), 2, sampler=shard(7, 1, 3)))).tolist() == [1, 4]


@pytest.mark.parametrize(("n", "rank", "world"), [(-1, 0, 1), (3, 2, 2), (3, -1, 2), (3, 0, 0)])
def test_a_shard_that_does_not_exist_is_refused(n, rank, world):
    with pytest.raises(ValueError, match="0 <= rank < world_size"):
        shard(n, rank, world)


def test_gathering_alone_gives_the_rows_themselves_and_counts_them():
    rows = torch.arange(6).view(3, 2)
    assert gather_exact(rows, 3) is rows
    with pytest.raises(ValueError, match=r"expected \[4\] rows .* got \[3\]"):
        gather_exact(rows, 4)


SIZES = range(9)
GIVEN = [[0.0, 1.0], [2.0, 5.0], [4.0, 0.0]]


@pytest.fixture(scope="module")
def two_ranks():
    """Return what each of two ranks found, by the name of the task."""
    tasks = {
        "gathers_too_much": (sharing.gathers_too_much,),
        "accumulated": (sharing.accumulated, 13, 3, 3),
        "runs_out": (sharing.runs_out,),
    }
    return launch(sharing.together, 2, (tasks,))


@pytest.fixture(scope="module")
def three_ranks():
    """Return what each of three ranks found, by the name of the task."""
    tasks = {"gathered": (sharing.gathered, SIZES), "means": (sharing.means, GIVEN)}
    return launch(sharing.together, 3, (tasks,))


def test_three_ranks_gather_every_row_once_and_in_order(three_ranks):
    assert len(three_ranks) == 3
    for found in three_ranks:
        for n, pairs in zip(SIZES, found["gathered"], strict=True):
            assert pairs.tolist() == [[i, i * i] for i in range(n)]


def test_a_wrong_number_of_rows_is_told_to_every_rank(two_ranks):
    assert len(two_ranks) == 2
    for message in (found["gathers_too_much"] for found in two_ranks):
        assert "expected [2, 1] rows from ranks 0 to 1 for n=3" in message
        assert "got [2, 2]" in message


def whole(n):
    """Return the gradients of one batch of n samples."""
    torch.manual_seed(0)
    model = TwoConvs()
    cross_entropy(model, sharing.batch_of(n)).backward()
    return [p.grad for p in model.parameters()]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 13), st.integers(1, 5))
def test_a_group_of_uneven_batches_has_the_gradient_of_one_batch(n, size):
    (step,), synced = sharing.accumulated(0, n, size, steps=100)
    torch.testing.assert_close(step, whole(n), atol=1e-6, rtol=0)
    assert len(synced) == -(-n // size)


def test_batches_are_grouped_and_the_last_group_may_be_short():
    batches = [sharing.batch_of(n) for n in (4, 4, 4, 4, 2)]
    micros = list(accumulate(TwoConvs(), batches, 2))
    assert [micro.first for micro in micros] == [True, False, True, False, True]
    assert [micro.last for micro in micros] == [False, True, False, True, True]
    assert [micro.weight for micro in micros] == [0.5, 0.5, 0.5, 0.5, 1.0]
    assert [micro.samples for micro in micros] == [8, 8, 8, 8, 2]


def test_uneven_shards_accumulate_to_the_gradient_of_the_whole_batch(two_ranks):
    """Rank 0 has 7 samples in batches of 3, 3 and 1; rank 1 has 6 in 3 and 3."""
    for (step,), synced in (found["accumulated"] for found in two_ranks):
        torch.testing.assert_close(step, whole(13), atol=1e-6, rtol=0)
        assert synced == [False] * (len(synced) - 1) + [True]


def test_a_rank_that_runs_out_of_batches_is_told_to_every_rank(two_ranks):
    for message in (found["runs_out"] for found in two_ranks):
        assert "the ranks have [2, 0] samples in this step" in message


@pytest.mark.parametrize(
    ("batches", "steps", "message"),
    [
        pytest.param([sharing.batch_of(2)], 0, "steps >= 1", id="no step"),
        pytest.param([sharing.batch_of(0)], 1, "at least one sample", id="empty batch"),
        pytest.param([("a word", 3)], 1, "no tensor", id="no tensor"),
    ],
)
def test_what_cannot_be_accumulated_is_refused(batches, steps, message):
    with pytest.raises(ValueError, match=message):
        next(accumulate(TwoConvs(), batches, steps))


def test_the_mean_over_ranks_is_the_mean_and_changes_nothing_else(three_ranks):
    for rank, (kept, mean, grad) in enumerate(found["means"] for found in three_ranks):
        assert mean == [2.0, 2.0]
        assert kept == GIVEN[rank]
        assert not grad
    assert sharing.means(0, GIVEN) == ([0.0, 1.0], [0.0, 1.0], False)
