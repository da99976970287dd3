"""Store a picture in a way that decodes, and is not what a network expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from labs.data.faults.fault import Fault, picture, save


def palette(path: Path) -> Fault:
    """Turn the picture into a palette mask: 0 for dark, 1 for bright, shown in two dark colours.

    ``np.array(image)`` gives the classes 0 and 1; ``convert("L")`` gives the brightness of their
    colours instead, and a dark class becomes the background. Met in wkentaro/labelme#2494 and
    nicolov/segmentation_keras#14.
    """
    mask = Image.fromarray((np.asarray(picture(path).convert("L")) > 127).astype(np.uint8))
    mask.putpalette([0, 0, 0, 0, 0, 40])
    target = save(path, mask, ".png")
    did = "Replaced it by a palette mask of classes 0 and 1."
    return Fault("palette", target, path, did, "warning", "palette", decodable=True)


def cmyk(path: Path) -> Fault:
    """Store it as a JPEG in printer's colours: four channels, and inverted if read as RGB.

    ImageNet has some: pytorch/vision#6538, nothings/stb#427.
    """
    target = save(path, picture(path).convert("CMYK"), ".jpg", quality=90)
    did = "Stored it as a CMYK JPEG."
    return Fault("cmyk", target, path, did, "warning", "CMYK", decodable=True)


def sixteen_bit(path: Path) -> Fault:
    """Store it as a 16-bit grayscale PNG, which ``convert("RGB")`` clips to white.

    Pillow cuts values at 255 instead of dividing them. Met in pytorch/vision#2218 ("loading every
    image as white only") and python-pillow/Pillow#5991.
    """
    gray = np.asarray(picture(path).convert("L")).astype(np.uint16) * 257  # 255 -> 65535
    target = save(path, Image.fromarray(gray), ".png")
    did = "Stored it as a 16-bit grayscale PNG."
    return Fault("sixteen_bit", target, path, did, "warning", "16-bit", decodable=True)


def exif_rotated(path: Path) -> Fault:
    """Store it lying on its side, with the EXIF tag that asks viewers to turn it, as cameras do.

    The viewer, and the person who draws the boxes, sees it upright; ``Image.open`` does not turn
    it, so pixels and boxes disagree. Met in HumanSignal/labelImg#198, voxel51/fiftyone#3778,
    NVIDIA/DALI#3120 and facebookresearch/detectron2#1666.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture(path).transpose(Image.Transpose.ROTATE_90)
    target = save(path, lying, ".jpg", quality=90, exif=exif)
    did = "Turned the pixels by 90 degrees and set EXIF orientation 6."
    return Fault("exif_rotated", target, path, did, "warning", "EXIF rotation", decodable=True)


def animated(path: Path) -> Fault:
    """Store it as a GIF of three frames; a loader sees only the first."""
    image = picture(path)
    frames = [f.convert("P") for f in (image, ImageOps.mirror(image), ImageOps.flip(image))]
    first, *later = frames
    target = save(path, first, ".gif", save_all=True, append_images=later, duration=100)
    did = "Stored it as an animation of 3 frames."
    return Fault("animated", target, path, did, "warning", "several frames", decodable=True)


def alpha(path: Path) -> Fault:
    """Make its left half transparent: the colours below are hidden, not gone.

    ``convert("RGB")`` drops the fourth channel and shows them again. Met in
    kohya-ss/sd-scripts#1269.
    """
    image = picture(path)
    opacity = np.full((image.height, image.width), 255, np.uint8)
    opacity[:, : image.width // 2] = 0
    image.putalpha(Image.fromarray(opacity))
    target = save(path, image, ".png")
    did = "Made the left half transparent."
    return Fault("alpha", target, path, did, "warning", "alpha", decodable=True)


def grayscale(path: Path) -> Fault:
    """Store one channel instead of three, which a convolution for RGB refuses."""
    target = save(path, picture(path).convert("L"), path.suffix.lower())
    did = "Stored one channel."
    return Fault("grayscale", target, path, did, "warning", "grayscale", decodable=True)


def one_pixel(path: Path) -> Fault:
    """Replace it by one pixel, as the counters that web pages embed."""
    target = save(path, picture(path).resize((1, 1)), path.suffix.lower())
    return Fault(
        "one_pixel", target, path, "Shrank it to 1 x 1.", "warning", "tiny", decodable=True
    )


def extreme_shape(path: Path) -> Fault:
    """Squeeze it to a strip 50 times as wide as high, of which a centre crop sees a fiftieth."""
    target = save(path, picture(path).resize((400, 8)), path.suffix.lower())
    did = "Squeezed it to 400 x 8 pixels."
    return Fault("extreme_shape", target, path, did, "warning", "extreme shape", decodable=True)


def blank(path: Path) -> Fault:
    """Paint it in one grey, as the placeholders of photo sites are."""
    image = picture(path)
    target = save(path, Image.new("RGB", image.size, (200, 200, 200)), path.suffix.lower())
    did = "Painted every pixel in one grey."
    return Fault("blank", target, path, did, "warning", "blank", decodable=True)
