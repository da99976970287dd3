"""At paper scale every network has the published number of parameters; none needs memory here."""

import pytest
import torch

from labs.models import (
    DigitNet,
    cascade_rcnn_resnet50,
    faster_rcnn_resnet50,
    resnet18,
    resnet34,
    resnet50,
    resnet_cifar,
    ssd300_vgg16,
    vgg16,
)


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("build", "published"),
    [
        pytest.param(resnet18, 11_689_512, id="ResNet-18"),
        pytest.param(resnet34, 21_797_672, id="ResNet-34"),
        pytest.param(resnet50, 25_557_032, id="ResNet-50"),
        # Table 2 of the paper gives 138 million.
        pytest.param(vgg16, 138_357_544, id="VGG-16"),
        pytest.param(lambda: ssd300_vgg16(90), 35_641_826, id="SSD300"),
        pytest.param(lambda: faster_rcnn_resnet50(90), 41_755_286, id="Faster R-CNN"),
        pytest.param(
            lambda: faster_rcnn_resnet50(90, frozen_norms=False),
            41_808_406,
            id="Faster R-CNN whose norms learn",
        ),
        # As MMDetection's has; the paper gives none.
        pytest.param(cascade_rcnn_resnet50, 69_341_646, id="Cascade R-CNN"),
        pytest.param(
            lambda: cascade_rcnn_resnet50(frozen_norms=False),
            69_394_766,
            id="Cascade R-CNN whose norms learn",
        ),
        # Table 6 of the paper gives 0.27M, 0.46M, 0.66M, 0.85M and 1.7M.
        pytest.param(lambda: resnet_cifar(20), 269_722, id="CIFAR ResNet-20"),
        pytest.param(lambda: resnet_cifar(32), 464_154, id="CIFAR ResNet-32"),
        pytest.param(lambda: resnet_cifar(44), 658_586, id="CIFAR ResNet-44"),
        pytest.param(lambda: resnet_cifar(56), 853_018, id="CIFAR ResNet-56"),
        pytest.param(lambda: resnet_cifar(110), 1_727_962, id="CIFAR ResNet-110"),
        pytest.param(DigitNet, 16 * 49 + 32 + 32 * 16 * 9 + 64 + 10 * 1568 + 10, id="DigitNet"),
    ],
)
def test_the_published_number_of_parameters(build, published):
    assert count(build) == published


def convolution(inputs, outputs, size=3):
    """Count a convolution without bias, and the scale and shift of its batch norm."""
    return inputs * outputs * size**2 + 2 * outputs


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_the_cifar_counts_follow_from_the_table_of_the_paper(depth):
    pairs = (depth - 2) // 6  # blocks per stage, each of two convolutions
    stem = convolution(3, 16)
    stages = [2 * pairs * convolution(w, w) for w in (16, 32, 64)]
    # The first convolution of stages two and three starts from half the channels.
    widening = sum(convolution(w, w) - convolution(w // 2, w) for w in (32, 64))
    assert count(lambda: resnet_cifar(depth)) == stem + sum(stages) - widening + 64 * 10 + 10


PROJECTIONS_18 = convolution(64, 128, 1) + convolution(128, 256, 1) + convolution(256, 512, 1)
PROJECTIONS_50 = (
    convolution(64, 256, 1)
    + convolution(256, 512, 1)
    + convolution(512, 1024, 1)
    + convolution(1024, 2048, 1)
)


@pytest.mark.parametrize(
    ("build", "fewer"),
    [
        pytest.param(resnet18, PROJECTIONS_18, id="ResNet-18: 173,824 in three projections"),
        pytest.param(resnet34, PROJECTIONS_18, id="ResNet-34: 173,824 in three projections"),
        pytest.param(resnet50, PROJECTIONS_50, id="ResNet-50: 2,776,576 in four projections"),
        pytest.param(resnet_cifar, 0, id="CIFAR: padding has no parameters"),
    ],
)
def test_the_plain_twin_differs_by_exactly_the_projections(build, fewer):
    assert count(build) - count(lambda: build(shortcut=False)) == fewer
    assert (PROJECTIONS_18, PROJECTIONS_50) == (173_824, 2_776_576)
