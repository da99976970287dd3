"""Measure speed as ratios within one run, because machines are noisy and differ.

    python -m tools.bench

A line times two things in turn, many times, and reports the median of the paired ratios with its
quartiles; or it times one thing, and reports how many a second. Nothing here is a test: a slow
machine is not a defect.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from timeit import timeit

import torch
from PIL import Image
from torchvision.models import resnet18
from torchvision.transforms.v2.functional import to_pil_image

from labs.ablation import ablate, processes
from labs.data import photos, scan_images
from labs.data.scenes import Scenes
from labs.hooks import capture
from labs.repro import seed_everything, versions
from tools import bench_detection, bench_twins
from tools.timing import Pair, Rate, pair, rate


def bench_capture() -> Pair:
    """Compare a ResNet-18 forward pass with the same pass under ``capture`` of one stage."""
    model = resnet18().eval()
    images = torch.rand(4, 3, 224, 224)

    def plain() -> None:
        with torch.no_grad():
            model(images)

    def captured() -> None:
        with torch.no_grad(), capture(model, "layer4"):
            model(images)

    return pair(plain, captured, 30)


def bench_scan() -> Pair:
    """Compare a scan in this process with the same scan in two processes, their start included."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for index, picture in enumerate(photos("train", 2000, 128).images):
            to_pil_image(picture).save(root / f"{index}.jpg")
        return pair(lambda: scan_images(root, workers=0), lambda: scan_images(root, workers=2), 3)


def bench_scan_small(files: int) -> Pair:
    """Compare a plain loop of Pillow that loads so many files with a scan of them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for index, picture in enumerate(photos("train", files, 128).images):
            to_pil_image(picture).save(root / f"{index}.jpg")

        def loop() -> None:
            for path in root.iterdir():
                with Image.open(path) as image:
                    image.load()

        return pair(loop, lambda: scan_images(root), 7)


def bench_photos() -> Pair:
    """Compare composing 100 photographs at 64 pixels with 100 at 128 pixels."""
    return pair(lambda: photos("train", 100, 64), lambda: photos("train", 100, 128), 5)


def bench_scenes() -> Pair:
    """Compare 100 scenes of 128 pixels with digits with 100 of photographs and clutter."""
    digits, crowded = Scenes("train", 100), Scenes("train", 100, things=("photos",), clutter=3)
    return pair(
        lambda: [*map(digits.__getitem__, range(100))],
        lambda: [*map(crowded.__getitem__, range(100))],
        5,
    )


def bench_scene_rate() -> Rate:
    """Count the scenes of 128 pixels with 1 to 4 digits that one core composes in a second."""
    scenes = Scenes("train", 200)
    return rate(lambda: [*map(scenes.__getitem__, range(200))], 200, 7)


def bench_ablation() -> Pair:
    """Compare an ablation in two processes with the same one in one process, both started."""
    settings = {"stmt": "sum(range(1000))", "number": 40_000}  # holds one core, and no memory

    def study(pool: ProcessPoolExecutor) -> None:
        ablate(timeit, settings, "number", [40_000, 40_001], seeds=range(4), executor=pool)

    with processes(1) as one, processes(2) as two:
        return pair(lambda: study(two), lambda: study(one), 5)


BENCHES: dict[str, Callable[[], Pair | Rate]] = {
    "ablate: 8 CPU-bound runs, two processes and one": bench_ablation,
    "capture: ResNet-18 forward, without and with": bench_capture,
    "photos: compose 100 images, 64 px and 128 px": bench_photos,
    "scenes: compose 100, digits and photographs with clutter": bench_scenes,
    "scenes: 128 px, 1 to 4 digits, on one core": bench_scene_rate,
    "scan_images: 2000 files, in-process and two workers": bench_scan,
    "scan_images: 50 files, a loop of Pillow and a scan": partial(bench_scan_small, 50),
    "scan_images: 200 files, a loop of Pillow and a scan": partial(bench_scan_small, 200),
    "scan_images: 400 files, a loop of Pillow and a scan": partial(bench_scan_small, 400),
}


def main() -> None:
    """Run every benchmark and print one line for each."""
    seed_everything(0)
    print(versions().table().to_string(index=False, header=False), "\n")
    for name, bench in (BENCHES | bench_detection.BENCHES | bench_twins.BENCHES).items():
        print(bench().line(name), flush=True)


if __name__ == "__main__":
    main()
