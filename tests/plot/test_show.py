import matplotlib
import pandas as pd
import pytest
from matplotlib import pyplot

from labs import plot

RISES = "The line rises."


def test_the_finding_is_caption_description_and_text(shown):
    figure, ax = plot.new(5, 2)
    ax.plot([1, 2])
    assert plot.show(figure, RISES) is None
    assert f"<figcaption>{RISES}</figcaption>" in shown.html
    assert shown[0]["text/plain"] == RISES
    ((_, _, alt, size),) = shown.images()
    assert alt == RISES
    assert (size["width"], size["height"]) == ("480", "192")


def test_a_longer_description_goes_to_those_who_do_not_see_and_not_into_the_caption(shown):
    plot.show(plot.new()[0], RISES, alt="A line from 1 to 2.")
    assert shown.images()[0][2] == "A line from 1 to 2."
    assert f"<figcaption>{RISES}</figcaption>" in shown.html


def test_panels_share_one_description(shown):
    plot.show(plot.new(columns=3)[0], RISES, alt='Three "empty" boxes.')
    assert [alt for _, _, alt, _ in shown.images()] == ["", "", ""]
    assert 'role="img" aria-label="Three &quot;empty&quot; boxes."' in shown.html


def test_words_of_a_caption_are_not_read_as_html(shown):
    plot.show(plot.new()[0], "a < b & c")
    assert "<figcaption>a &lt; b &amp; c</figcaption>" in shown.html


@pytest.mark.parametrize("finding", ["", "  \n"])
def test_a_figure_without_a_finding_is_refused_and_stays_open(finding, shown):
    figure, _ = pyplot.subplots()
    with pytest.raises(ValueError, match="show: expected a finding, got none"):
        plot.show(figure, finding)
    assert shown == []
    assert pyplot.fignum_exists(figure.number)
    pyplot.close(figure)


def test_a_figure_of_pyplot_is_closed(shown):
    figure, _ = pyplot.subplots(figsize=(2, 1), dpi=300)
    plot.show(figure, RISES)
    assert not pyplot.fignum_exists(figure.number)
    assert shown.images()[0][3]["width"] == "192"


def test_titles_move_left_and_keep_their_size(shown):
    figure, ax = plot.new()
    ax.set_title("Depth hurts", fontsize=7)
    plot.show(figure, RISES)
    assert (ax.get_title(), ax.get_title(loc="left")) == ("", "Depth hurts")
    assert ax._left_title.get_fontsize() == 7


def test_the_style_stays_out_of_the_settings_and_of_pyplot(shown):
    before = matplotlib.rcParams.copy()
    figure, ax = plot.new()
    plot.curves(ax, pd.DataFrame({"x": [0, 1], "y": [0, 1]}), "x", "y")
    plot.show(figure, RISES)
    assert matplotlib.rcParams == before
    assert pyplot.get_fignums() == []


def test_a_drawing_in_svg_is_shown_as_it_is(shown):
    class Box:
        svg = '<svg width="300" height="90"><text font-size="13">a</text></svg>'

    plot.show(Box(), "One box.")
    ((kind, data, alt, size),) = shown.images()
    assert (kind, data.decode(), alt) == ("image/svg+xml", Box.svg, "One box.")
    assert (size["width"], size["height"], size["data-text"]) == ("300", "90", "13.0")
