"""Hold a training after one step, so that a test can disturb it there, however busy the machine.

HOLD="5 FILE" python -m tests.ddp.held ...    # labs.ddp_train, held after step 5 until FILE is
"""

import os
import signal
from pathlib import Path

from labs.ddp_train import loop
from labs.ddp_train.__main__ import main
from tests.waiting import until


def hold():
    """Let the loop wait after it saved the step, until the file is there; HOLD names the two.

    A file that says SIGINT comes with the signal, and may be seen before it: then the loop waits
    for that, too. Whoever takes the wish to stop gives the handler back that was there before.
    """
    if "HOLD" not in os.environ:
        return
    step, release = os.environ["HOLD"].split(maxsplit=1)
    real = loop.save

    def save(run, *others):
        asked = signal.getsignal(signal.SIGINT)  # before anybody can see that the step is done
        real(run, *others)
        if run.step == int(step):
            until(Path(release).exists)
            if Path(release).read_text() == "SIGINT":
                until(lambda: signal.getsignal(signal.SIGINT) is not asked)

    loop.save = save


def let_go(release, number):
    """Write the file that ends the waiting, whole at once: which signal was sent."""
    part = release.with_name(f"{release.name}.part")
    part.write_text(signal.Signals(number).name)
    part.replace(release)


if __name__ == "__main__":
    hold()
    main()
