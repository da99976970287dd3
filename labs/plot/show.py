"""Show a figure with the sentence that it proves."""

from __future__ import annotations

from html import escape

from matplotlib.figure import Figure

from labs.extras import optional
from labs.plot.render import Drawing, render


def show(figure: Figure | Drawing, finding: str, alt: str = "") -> None:
    """Display the figure once, with its finding as caption.

    Panels stand side by side where there is room, and below each other where there is not. Titles
    move to the left. The figure is closed, so a notebook does not display it again.

    Args:
        figure: From :func:`labs.plot.new`, any other, or a diagram.
        finding: What the figure shows to be so, as one sentence. It is the caption.
        alt: What is to be seen, for those who do not see it, where that says more than ``finding``.

    Raises:
        ImportError: When IPython is not installed; the figure is untouched then, and
            ``figure.savefig`` writes it without.
        ValueError: When ``finding`` is empty.
    """
    check_sentence("show", finding)
    display = optional("IPython.display", "labs.plot.show").display  # only notebooks need it
    pictures = render(_with_titles_left(figure))
    described = alt or finding
    if len(pictures) == 1:
        images = pictures[0].html(described)
    else:  # one description for all of them
        images = (
            f'<div role="img" aria-label="{escape(described)}" style="display:flex;flex-wrap:wrap">'
            + "".join(picture.html("") for picture in pictures)
            + "</div>"
        )
    display({"text/html": framed(images, finding), "text/plain": finding}, raw=True)


def framed(inside: str, finding: str) -> str:
    """Return the HTML of a figure: what is inside, and its finding as caption."""
    return (
        f'<figure class="labs-figure" style="margin:0">{inside}'
        f"<figcaption>{escape(finding)}</figcaption></figure>"
    )


def check_sentence(who: str, finding: str) -> None:
    """Raise ValueError, in the name of the caller, when there is no finding."""
    if not finding.strip():
        raise ValueError(
            f"{who}: expected a finding, got none; say in a sentence what is to be seen"
        )


def _with_titles_left(figure: Figure | Drawing) -> Figure | Drawing:
    for ax in figure.axes if isinstance(figure, Figure) else []:
        title, font = ax.get_title(), ax.title.get_fontproperties().copy()
        if title:
            ax.set_title("", loc="center")
            ax.set_title(title, loc="left", fontproperties=font)
    return figure
