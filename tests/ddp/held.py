"""Hold a training after one step, so that a test can disturb it there, however busy the machine.

HOLD="5 FILE" python -m tests.ddp.held ...    # labs.ddp_train, held after step 5 until FILE is
"""

import os
from pathlib import Path

from labs.ddp_train import loop
from labs.ddp_train.__main__ import main
from tests.waiting import until


def hold():
    """Let the loop wait after it saved the step, until the file is there; HOLD names the two."""
    if "HOLD" not in os.environ:
        return
    step, release = os.environ["HOLD"].split(maxsplit=1)
    real = loop.save

    def save(run, *others):
        real(run, *others)
        if run.step == int(step):
            until(Path(release).exists)

    loop.save = save


if __name__ == "__main__":
    hold()
    main()
