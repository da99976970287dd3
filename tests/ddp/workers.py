"""Keep what the ranks run: they import it, so a test cannot define it inside."""

import os
import signal
import subprocess
import sys
import threading
import time

import torch
import torch.distributed as dist


def add(rank, value):
    print("this must not reach the caller")
    total = torch.tensor([float(rank + value)])
    dist.all_reduce(total)
    return {"rank": rank, "total": total.item(), "threads": torch.get_num_threads()}


def environment(rank):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return {name: int(os.environ[name]) for name in names} | {"input": sys.stdin.read()}


def big(rank):
    return torch.full((5_000_000,), float(rank))  # far more than a pipe holds


def fails(rank, how, blocked):
    """Fail as rank 1 in one way; rank 0 then waits for it, or works on alone."""
    if rank == 0:
        if blocked:
            dist.all_reduce(torch.zeros(1))
        else:
            time.sleep(600)
    print("about to fail", flush=True)
    WAYS[how]()


def _raise():
    raise ZeroDivisionError("on purpose")


def _sleep_for_ever():
    time.sleep(600)


WAYS = {
    "raises": _raise,
    "sys.exit": lambda: sys.exit(0),
    "os._exit": lambda: os._exit(3),
    "os._exit(0)": lambda: os._exit(0),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleeps": _sleep_for_ever,
}


def unpicklable(rank):
    return threading.Lock() if rank == 1 else rank


def returns_early(rank):
    if rank == 0:
        return "done"
    dist.all_reduce(torch.zeros(1))
    return "never"


def wait_for_each_other(rank):
    if rank == 0:
        dist.recv(torch.zeros(1), src=1)
    else:
        dist.recv(torch.zeros(1), src=0)


def leave_a_child(rank, path):
    """Start a process that would outlive the rank, and tell which."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(f"{path}/{rank}", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    return child.pid


def leave_a_child_and_sleep(rank, path):
    leave_a_child(rank, path)
    time.sleep(600)
