"""Run one program in several processes, and prove that it computes what one process would."""

from labs.ddp.group import Place, join
from labs.ddp.launcher import launch
from labs.ddp.outcome import RankFailed
from labs.ddp.parity import GradientParity, gradient_parity
from labs.ddp.shards import Micro, accumulate, gather_exact, mean_over_ranks, shard

__all__ = [
    "GradientParity",
    "Micro",
    "Place",
    "RankFailed",
    "accumulate",
    "gather_exact",
    "gradient_parity",
    "join",
    "launch",
    "mean_over_ranks",
    "shard",
]
