from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from labs.ddp.group import _unused_part


def meet(store, world_size=3):
    """Let all ranks agree, each in a thread; the others come before rank 0 does."""
    with ThreadPoolExecutor(world_size) as pool:
        others = [
            pool.submit(_unused_part, store, rank, world_size, 10) for rank in range(1, world_size)
        ]
        first = _unused_part(store, 0, world_size, 10)
        return [first, *(other.result() for other in others)]


def test_ranks_share_a_part_that_no_earlier_attempt_wrote_to():
    store = dist.HashStore()
    for attempt in range(3):
        parts = meet(store)
        assert not any(part.check(["address"]) for part in parts)
        parts[0].set("address", f"attempt {attempt}")
        assert [part.get("address").decode() for part in parts] == [f"attempt {attempt}"] * 3


def test_questions_of_an_attempt_that_broke_off_are_not_mistaken_for_new_ones():
    store = dist.HashStore()
    store.set("question/1", "nobody waits for this answer any more")
    parts = meet(store, world_size=2)
    parts[1].set("address", "new")
    assert parts[0].get("address") == b"new"


def test_rank_0_names_who_did_not_come():
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not come within 0\.05 s"):
        _unused_part(dist.HashStore(), 0, 3, 0.05)


def test_the_others_do_not_wait_for_ever_either():
    with pytest.raises(dist.DistError):
        _unused_part(dist.HashStore(), 1, 2, 0.05)
