"""Hold a detector so small that tests can train it, and the command line that knows it."""

from labs.criteria import YOLOv8Criterion
from labs.detection import Detector
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from labs.recipes import DETECTORS
from labs.recipes.__main__ import main
from tests.ddp.held import hold


def tiny(num_classes):
    """Build a YOLOv8 of one level and few channels."""
    shape = (num_classes, (16,), 8)
    network = YOLOv8(num_classes, width=1 / 16, strides=(16,), reg_max=8, image_size=128)
    return Detector(network, YOLOv8Criterion(*shape), YOLOv8Postprocess(*shape))


if __name__ == "__main__":
    DETECTORS["tiny"] = tiny
    hold()
    main()
