"""Draw the picture that chat programs show beside a link to the book: the logo and the title.

    python -m tools.draw_share

Writes ``book/_static/share.png``, 1200 x 630 pixels, from the drawing in ``tools.draw_logo``.
"""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from tools.draw_logo import BOX_LIGHT, BUG, LIGHT, STATIC, pixels

SIZE = (1200, 630)
WORDS = ("Computer Vision,\nDebugged", "A book whose every claim runs")


def main() -> None:
    """Write the picture."""
    draw().save(STATIC / "share.png", optimize=True)


def draw() -> Image.Image:
    """Return the picture: the bug in its box on the left, the title on the right."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    left, top, side = 80, 125, 380
    cell = (side - 100) / len(BUG.split())
    for x, y, letter in pixels(BUG):
        corner = (left + 50 + x * cell, top + 50 + y * cell)
        far = (corner[0] + cell * 0.92, corner[1] + cell * 0.92)
        pen.rectangle([corner, far], fill=LIGHT[letter])
    arm = side // 4
    for x, right in ((left, arm), (left + side, -arm)):
        for y, down in ((top, arm), (top + side, -arm)):
            pen.line(
                [(x, y + down), (x, y), (x + right, y)], fill=BOX_LIGHT, width=14, joint="curve"
            )
    title, below = WORDS
    pen.multiline_text((530, 190), title, "#1f2a37", ImageFont.load_default(76), spacing=14)
    pen.text((530, 400), below, "#55606e", ImageFont.load_default(36))
    return picture


if __name__ == "__main__":
    main()
