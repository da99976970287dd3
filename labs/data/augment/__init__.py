"""Change pictures at random, and let boxes, masks and labels follow.

:class:`Augmented` applies one augmentation to a data set, always the same for the same seed, epoch
and index, in whatever process. An augmentation is a function of pictures with their truths and of
a generator: :func:`mosaic`, :func:`mixup`, :func:`copy_paste`, or :class:`Transformed`, which takes
any transform of ``torchvision.transforms.v2``.

Of a truth, ``boxes``, ``labels``, ``masks``, ``track_ids``, ``iscrowd`` and ``ignore`` follow;
the rest (areas, hidden parts, ``semantic``) is no longer true and is left out; a semantic map is
painted again from masks and labels.
"""

from labs.data.augment.augmented import Augmented, Transformed
from labs.data.augment.copying import copy_paste
from labs.data.augment.letter import letterbox, letterboxed, unletterbox
from labs.data.augment.mixing import mixup
from labs.data.augment.tiles import mosaic

__all__ = [
    "Augmented",
    "Transformed",
    "copy_paste",
    "letterbox",
    "letterboxed",
    "mixup",
    "mosaic",
    "unletterbox",
]
