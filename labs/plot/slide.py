"""Show figures behind a slider that needs no kernel and no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from labs.extras import optional
from labs.plot.render import Drawing, Picture, render
from labs.plot.show import check_sentence, framed

_FEWEST, _MOST = 5, 12
_LOOK = (
    "#{0} label{{padding:2px 8px;margin:2px;border:1px solid #999;border-radius:4px}}"
    "#{0} label{{cursor:pointer}}"
    "#{0} input{{position:absolute;opacity:0}}#{0} .frames>*{{display:none}}"
    "#{0} input:checked+label{{background:#0072B2;border-color:#0072B2;color:#fff}}"
    "#{0} input:focus-visible+label{{outline:2px solid #D55E00;outline-offset:1px}}"
)


def slide(frames: Mapping[str, Figure | Drawing], what: str, finding: str, alt: str = "") -> None:
    """Display one frame at a time; the reader chooses, by mouse or by the arrow keys.

    It is HTML and CSS alone. Frames load when they are looked at. A printed page shows the first,
    the middle and the last; where HTML is not shown, the first stands alone.

    Args:
        frames: From the name of each stop to its figure, 5 to 12 of them.
        what: What the slider is, such as ``"training step"``.
        finding: What changes from the first frame to the last, as one sentence: the caption.
        alt: What is to be seen, where that says more than ``finding``.

    Raises:
        ImportError: When IPython is not installed.
        ValueError: When there are too few or too many frames, or no words.
    """
    check_sentence("slide", finding)
    if not _FEWEST <= len(frames) <= _MOST or not what.strip():
        raise ValueError(
            f"slide: expected {_FEWEST} to {_MOST} frames and what they differ in, "
            f"got {len(frames)} frames and {what!r}"
        )
    display = optional("IPython.display", "labs.plot.slide").display
    pictures = {stop: render(figure, split=False)[0] for stop, figure in frames.items()}
    first = next(iter(pictures.values()))
    name = "slide-" + sha256(f"{what}{finding}".encode()).hexdigest()[:8]
    images = "".join(
        picture.html(f"{what} {stop}: {alt or finding}", lazy=number > 0)
        for number, (stop, picture) in enumerate(pictures.items())
    )
    stops = "".join(_stops(name, list(pictures)))
    inside = (
        f"<style>{''.join(_rules(name, len(pictures)))}</style>"
        f'<div id="{name}" class="labs-slide" role="radiogroup" aria-label="{escape(what)}">'
        f'<span>{escape(what)}</span> {stops}<div class="frames">{images}</div></div>'
    )
    bundle = {"text/html": framed(inside, finding), "text/plain": finding}
    if first.mime == "image/webp":
        bundle["image/png"] = _small(first)
    display(bundle, raw=True)


def _small(picture: Picture) -> str:
    """Return the picture at its size on the page, in the format that every viewer knows."""
    file = io.BytesIO()
    size = picture.width, picture.height
    Image.open(io.BytesIO(picture.data)).convert("RGB").resize(size).quantize(64).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _stops(name: str, stops: list[str]) -> Iterator[str]:
    for number, stop in enumerate(stops):
        chosen = " checked" if number == 0 else ""
        yield (
            f'<input type="radio" name="{name}" id="{name}-{number}"{chosen}>'
            f'<label for="{name}-{number}">{escape(stop)}</label>'
        )


def _rules(name: str, count: int) -> Iterator[str]:
    yield _LOOK.format(name)
    for number in range(count):
        yield (f"#{name}-{number}:checked~.frames>:nth-child({number + 1}){{display:block}}")
    kept = ",".join(
        f"#{name} .frames>:nth-child({n})" for n in sorted({1, (count + 1) // 2, count})
    )
    yield f"@media print{{#{name} label{{display:none}}{kept}{{display:block!important}}}}"
