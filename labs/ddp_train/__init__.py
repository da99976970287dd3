r"""Train DigitNet on the digits, in one process or in many on many machines: one program.

The ways to start it::

    python -m labs.ddp_train
    torchrun --standalone --nproc-per-node=2 -m labs.ddp_train
    torchrun --standalone --nproc-per-node=2 --max-restarts=3 -m labs.ddp_train \
        --checkpoint runs/digits --save-every 50 --resume
    torchrun --nnodes=2 --node-rank=0 --nproc-per-node=8 --master-addr=HOST --master-port=29500 \
        -m labs.ddp_train        # on HOST, and with --node-rank=1 on the other machine

The global batch is what you set, however many processes share it, so learning rate and steps stay.
What is learnt is a :class:`Task`; without one, it is the digits.
"""

from labs.ddp_train.checkpoint import load, save
from labs.ddp_train.loop import take_step, train
from labs.ddp_train.options import add_options, how_to_go_on, settings_of
from labs.ddp_train.state import Run, Settings, build
from labs.ddp_train.task import Task, digit_task, measure

__all__ = [
    "Run",
    "Settings",
    "Task",
    "add_options",
    "build",
    "digit_task",
    "how_to_go_on",
    "load",
    "measure",
    "save",
    "settings_of",
    "take_step",
    "train",
]
