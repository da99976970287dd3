"""Draw what the book shows: figures with one style, readable by everyone, in light and in dark.

A figure is shown with the sentence that it proves::

    figure, ax = plot.new(height=3)
    ax.plot(losses)
    plot.show(figure, "The loss falls to a third within a hundred steps.")

The sentence is the caption and, unless ``alt`` describes the figure better, the text for those who
do not see it. What happens over time or over a threshold goes behind a slider::

    plot.slide({"step 0": first, "step 10": second, ...}, "training step", "The boxes shrink.")
"""

from labs.plot.lines import curves
from labs.plot.pictures import images, overlay
from labs.plot.show import show
from labs.plot.slide import slide
from labs.plot.style import COLOURS, DPI, new

__all__ = ["COLOURS", "DPI", "curves", "images", "new", "overlay", "show", "slide"]
