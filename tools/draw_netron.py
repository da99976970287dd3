"""Let Netron draw the graph of a network in lesson 6.4, and keep the picture.

    pip install netron
    python -m tools.draw_netron

Writes ``book/_static/netron.png``. The network is the lesson's: its own cell is read and run.
Netron draws in a browser: here in Chromium without a window, cut off from every machine but this
one. It writes shapes in brackets of East Asian width, so a font that has them must be installed,
such as Debian's ``fonts-ipafont-gothic``.
"""

from __future__ import annotations

import io
import shutil
import socket
import tempfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn

from labs.data import digits
from labs.export import to_onnx
from labs.stamp import ROOT
from tools.lesson import find

PICTURE = ROOT / "book" / "_static" / "netron.png"
LESSON = "lessons/06_engineering/04_export_to_onnx_and_run_anywhere"
ENDS = ("node_max_pool2d", "node_group_norm", "node_mean")
"""Each row of the picture ends with one of these nodes, the last row with the graph."""
SHARP = 2
"""Pixels of the picture per pixel of the page."""
MARGIN, COLOURS = 24, 16


def main() -> None:
    """Export the network, have it drawn, and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        whole, ends = drawn(exported(Path(folder)))
    picture = in_rows(whole, ends).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {picture.size}, {PICTURE.stat().st_size / 1000:.0f} kB")


def exported(folder: Path) -> Path:
    """Run the cell of the lesson that exports a network with many kinds of layers.

    Raises:
        LookupError: When the lesson has no such cell, or several.
    """
    (lesson,) = find(LESSON)
    cells = [cell.source for cell in lesson.read_source().cells if "zoo_file = " in cell.source]
    if len(cells) != 1:
        raise LookupError(f"expected one cell with 'zoo_file = ' in {LESSON}, got {len(cells)}")
    torch.manual_seed(0)
    known = {"nn": nn, "to_onnx": to_onnx, "test": digits("test", n=2), "folder": folder}
    exec(cells[0], known)  # a cell of this repository
    return folder / "zoo.onnx"


def drawn(model: Path) -> tuple[Image.Image, list[int]]:
    """Return what Netron shows of a model, from left to right, and where the ``ENDS`` end in it."""
    try:
        netron: Any = import_module("netron")
    except ModuleNotFoundError:
        raise SystemExit("draw_netron: netron is missing: pip install netron") from None
    from playwright.sync_api import sync_playwright

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    url = f"http://127.0.0.1:{address[1]}"
    netron.serve(str(model), None, address, False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = chromium.new_page(viewport={"width": 4000, "height": 400}, device_scale_factor=SHARP)
        tab.context.add_cookies([{"name": "consent", "value": "0", "url": url}])  # else it asks
        tab.route(lambda asked: not asked.startswith(url), lambda route: route.abort())
        tab.goto(url)
        tab.locator("#canvas .node").first.wait_for()
        tab.keyboard.press("Control+k")  # from left to right
        tab.wait_for_timeout(2000)  # until it is laid out anew
        boxes = [tab.locator(f"#node-name-{name}").bounding_box() for name in ENDS]
        whole = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        chromium.close()
    netron.stop(address)
    return whole, [round(SHARP * (box["x"] + box["width"])) for box in boxes if box]


def in_rows(whole: Image.Image, ends: list[int]) -> Image.Image:
    """Cut a long picture behind each end, and set the pieces below each other."""
    left, right, controls = 0, whole.width, whole.height // 4  # buttons lie at the edges
    pieces = [
        whole.crop((start, controls, end + SHARP, whole.height - controls))
        for start, end in pairwise((left, *ends, right - SHARP))
    ]
    pieces = [piece.crop(ImageOps.invert(piece).getbbox()) for piece in pieces]
    width = max(piece.width for piece in pieces)
    height = sum(piece.height + MARGIN for piece in pieces)
    picture = Image.new("RGB", (width + 2 * MARGIN, height + MARGIN), "white")
    top = MARGIN
    for piece in pieces:
        picture.paste(piece, (MARGIN, top))
        top += piece.height + MARGIN
    return picture


if __name__ == "__main__":
    main()
