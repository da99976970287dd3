"""Blend two pictures, and keep the objects of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labs.data.augment.window import Example, cut, joined


def mixup(
    examples: Sequence[Example], generator: np.random.Generator, *, alpha: float = 1.5
) -> Example:
    """Blend two pictures with a share from Beta(alpha, alpha); all objects of both stay.

    Zhang et al., 2018 (arXiv:1710.09412), for detection Zhang et al., 2019 (arXiv:1902.04103),
    where 1.5 was best. The smaller picture is surrounded by grey, on the right and below.

    Args:
        examples: Two.
        generator: Draws the share.
        alpha: Above 0; the larger, the more even the shares.

    Raises:
        ValueError: When there are not two examples, or alpha is out of range.
    """
    if len(examples) != 2 or not alpha > 0:
        raise ValueError(
            f"mixup: expected 2 examples and alpha > 0, got {len(examples)} and alpha={alpha}; "
            "use Augmented(dataset, mixup, partners=1)"
        )
    height, width = (max(example[0].shape[axis] for example in examples) for axis in (1, 2))
    share = generator.beta(alpha, alpha)
    (first, truth), (second, other) = (cut(e, (0, 0, width, height)) for e in examples)
    return share * first + (1 - share) * second, joined([truth, other])
