"""Break what is inside a file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from labs.data.faults.fault import Fault, picture, renamed, save


def truncated(path: Path) -> Fault:
    """Cut a JPEG or PNG off in the middle of its pixels, as a full disk or a lost connection does.

    ``Image.open`` still succeeds, for it reads the header alone; the error comes when the pixels
    are decoded, hours into a training run. Met in pytorch/vision#138,
    facebookresearch/detectron2#143 and udacity/deep-learning-v2-pytorch#134.
    """
    data = path.read_bytes()
    keep = _within_pixels(path, data, 0.5)
    path.write_bytes(data[:keep])
    did = f"Kept the first {keep:,} of {len(data):,} bytes."
    return Fault("truncated", path, path, did, "bad", "truncated")


def grey_band(path: Path) -> Fault:
    """Cut a JPEG off and glue an end marker on: it decodes without an error, and ends in grey.

    The decoder fills the rows that never came with mid grey, and says so only on a channel that
    Pillow does not listen to. ``LOAD_TRUNCATED_IMAGES`` makes the same picture of any truncated
    file (microsoft/Biodiversity#94 tells why not to set it).
    Met as "Premature end of JPEG file" in ultralytics/yolov5#916 and tensorflow/models#9424. The
    picture must be at least 16 pixels high.
    """
    target = save(path, picture(path), ".jpg", quality=90, subsampling=0)
    data = target.read_bytes()
    target.write_bytes(data[: _within_pixels(target, data, 0.1)] + b"\xff\xd9")
    did = "Cut the JPEG at 10 % of its pixel data and wrote an end marker there."
    return Fault("grey_band", target, path, did, "warning", "grey band", decodable=True)


def bit_rot(path: Path) -> Fault:
    """Flip some bits in the middle of the pixels, as a failing disk does.

    A PNG carries checksums, so the scan sees it. A JPEG carries none: it decodes, with wrong
    colours from there on. Only a checksum taken on the day you got the data would tell; the scan's
    table holds one to keep. Met as "Corrupt JPEG data" in junjie18/CMT#35, where training simply
    went on, and in AlexeyAB/darknet#5293.
    """
    data = bytearray(path.read_bytes())
    middle = _within_pixels(path, data, 0.5)
    for i in range(middle, min(middle + 16, len(data) - 2)):
        # 0xFF introduces a marker in a JPEG: a new one would turn silent rot into a loud error
        if 0xFF not in (data[i - 1], data[i], data[i] ^ 0x10):
            data[i] ^= 0x10
    path.write_bytes(data)
    did = f"Flipped one bit in each of the bytes {middle:,} to {middle + 15:,}."
    if data.startswith(b"\x89PNG"):
        return Fault("bit_rot", path, path, did, "bad", "corrupt")
    return Fault("bit_rot", path, path, did, "unseen", decodable=True)


def empty(path: Path) -> Fault:
    """Leave 0 bytes, as an interrupted copy does."""
    path.write_bytes(b"")
    return Fault("empty", path, path, "Removed every byte.", "bad", "empty")


def zeroed(path: Path) -> Fault:
    """Replace every byte by zero at the same size, as a crash of the file system can.

    Met as "Not a JPEG file: starts with 0x00 0x00" in robbiebarrat/art-DCGAN#7.
    """
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    return Fault("zeroed", path, path, f"Wrote {size:,} zeros.", "bad", "not an image")


def html(path: Path) -> Fault:
    """Save an error page under the name of the picture, as a downloader that ignores status does.

    Met in photopea/photopea#257: the server sends its page for robots instead of the JPEG.
    """
    page = "<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body></body></html>\n"
    path.write_text(page, encoding="utf-8")
    return Fault("html", path, path, "Saved an HTML page in its place.", "bad", "not an image")


def text(path: Path) -> Fault:
    """Save a line of text under the name of the picture.

    Met in tonquer/JMComic-qt#185, where a page of a comic held the words ``error code: 502``.
    """
    path.write_text("error code: 502\n", encoding="utf-8")
    return Fault("text", path, path, "Saved a line of text in its place.", "bad", "not an image")


def wrong_extension(path: Path) -> Fault:
    """Store PNG content under the name of a JPEG, or the reverse.

    Pillow looks at the content and does not mind; a reader that trusts the name fails. ImageNet has
    such a file (tensorflow/datasets#590); ymy-k/DPText-DETR#1 had WebP files named .jpg.
    """
    is_png = path.read_bytes().startswith(b"\x89PNG")
    picture(path).save(path, format="JPEG" if is_png else "PNG")
    did = f"Stored {'JPEG' if is_png else 'PNG'} content under the name {path.suffix}."
    problem = "wrong extension"
    return Fault("wrong_extension", path, path, did, "warning", problem, decodable=True)


def bomb(path: Path) -> Fault:
    """Write a PNG of under 100 bytes whose header claims 100,000 x 100,000 pixels (30 GB).

    Never decode one. Pillow's own guard is met, and often switched off, where real pictures are
    large: facebookresearch/detectron2#1221, nadeemlab/DeepLIIF#48.
    """
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")
    target = renamed(path, ".png")
    path.unlink()
    target.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))
    did = "Wrote a PNG header that claims 100,000 x 100,000 pixels, and hardly any pixels."
    return Fault("bomb", target, path, did, "bad", "too many pixels")


def nan_array(path: Path) -> Fault:
    """Store the picture as a float NumPy array with a square of NaN, as a division by zero leaves.

    One such sample makes the loss NaN, and every weight after it. Met in
    NRCan/geo-deep-learning#68.
    """
    pixels = np.asarray(picture(path), dtype=np.float32) / 255
    pixels[:4, :4] = np.nan
    target = renamed(path, ".npy")
    path.unlink()
    np.save(target, pixels)
    did = "Stored it as a float32 array in [0, 1] with NaN in the top left 4 x 4 pixels."
    return Fault("nan_array", target, path, did, "bad", "not finite", decodable=True)


def pickled_array(path: Path) -> Fault:
    """Store the picture as an array of Python objects, which only ``allow_pickle=True`` can read.

    Never set that for data of others: reading a pickle runs whatever code it names. This one holds
    a plain array.
    """
    box = np.empty(1, dtype=object)
    box[0] = np.asarray(picture(path))
    target = renamed(path, ".npy")
    path.unlink()
    np.save(target, box, allow_pickle=True)
    did = "Stored it as a pickled object array."
    return Fault("pickled_array", target, path, did, "bad", "needs pickle")


def _within_pixels(path: Path, data: bytes | bytearray, share: float) -> int:
    """Return the position at this share of the compressed pixels of a JPEG or PNG file."""
    if data.startswith(b"\xff\xd8"):
        start = data.rfind(b"\xff\xda")  # the last scan: a thumbnail's comes before it
    elif data.startswith(b"\x89PNG"):
        start = data.find(b"IDAT")
    else:
        start = -1
    if start < 0:
        found = bytes(data[:8]).hex(" ")
        raise ValueError(
            f"faults: expected a sound JPEG or PNG file, got {path}, which begins with "
            f"{found or 'nothing'}; damage each file once"
        )
    return start + int(share * (len(data) - start))


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum
