"""One image, its objects, in PyTorch and as a file."""

import pytest
import torch

from labs.data.scenes import Scenes
from labs.export import session, to_onnx
from labs.postprocess import SingleImage
from labs.recipes import DETECTORS, load


def sure(boxes, scores, labels, least=0.3):
    """Return the detections above a score as rows of label and box, sorted."""
    kept = scores > least
    return sorted(
        (int(label), [round(x) for x in box])
        for label, box in zip(labels[kept].tolist(), boxes[kept].tolist(), strict=True)
    )


@pytest.fixture(scope="module")
def detector():
    return load("yolo_v8")


@pytest.fixture(scope="module")
def pictures():
    scenes = Scenes("test", 12, seed=7)
    return [scenes[i][0][None] for i in range(12)]


def test_it_finds_what_the_detector_finds(detector, pictures):
    alone = SingleImage(detector.network, detector.postprocess.candidates).eval()
    for picture in pictures:
        (found,) = detector.detect(picture)
        with torch.no_grad():
            assert sure(*alone(picture)) == sure(found["boxes"], found["scores"], found["labels"])


@pytest.mark.slow
def test_the_file_finds_the_same_in_pictures_it_has_not_seen(detector, pictures, tmp_path):
    alone = SingleImage(detector.network, detector.postprocess.candidates).eval()
    path = to_onnx(alone, pictures[0], tmp_path / "one.onnx", outputs=["boxes", "scores", "labels"])
    run = session(path, ["CPUExecutionProvider"])
    for picture in pictures[1:]:
        with torch.no_grad():
            assert sure(*map(torch.as_tensor, run(picture))) == sure(*alone(picture))


@pytest.mark.parametrize("name", DETECTORS)
def test_it_serves_every_version(name):
    torch.manual_seed(0)
    detector = DETECTORS[name](4)
    alone = SingleImage(detector.network, detector.postprocess.candidates, count=50).eval()
    boxes, scores, labels = alone(torch.rand(1, 3, 128, 128))
    assert boxes.shape == (len(scores), 4)
    assert len(scores) == len(labels) <= 50
    assert (scores.diff() <= 0).all()
    assert labels.max() < 4


@pytest.mark.parametrize("name", ["ssd", "faster_rcnn", "cascade_rcnn"])
def test_it_takes_the_box_of_the_class_that_scores(name):
    torch.manual_seed(0)
    detector = DETECTORS[name](4)
    detector.network.eval()
    picture = torch.rand(1, 3, 128, 128)
    postprocess = detector.postprocess
    with torch.no_grad():
        pairs = postprocess.candidates(detector.network(picture))[1][0].numel()
        overlap = postprocess.iou_threshold
        alone = SingleImage(detector.network, postprocess.candidates, min(pairs, 1000), overlap)
        boxes, scores, labels = alone.eval()(picture)
        (found,) = detector.detect(picture)
    torch.testing.assert_close(boxes[:10], found["boxes"][:10])
    torch.testing.assert_close(scores[:10], found["scores"][:10])
    assert labels[:10].tolist() == found["labels"][:10].tolist()
