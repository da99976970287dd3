"""Change one thing, repeat it over seeds, and see whether it mattered."""

from labs.ablation.experiment import ablate
from labs.ablation.pool import processes
from labs.ablation.run import NotAScoreError, Run
from labs.ablation.sources import Interval, resample
from labs.ablation.study import Study

__all__ = ["Interval", "NotAScoreError", "Run", "Study", "ablate", "processes", "resample"]
