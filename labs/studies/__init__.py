"""Experiments that take longer than a lesson: recorded run by run, and how to run them again."""

from labs.studies.experiment import Experiment
from labs.studies.record import Record, read_record
from labs.studies.replay import Replay, replay

__all__ = ["Experiment", "Record", "Replay", "read_record", "replay"]
