import pandas as pd
import pytest

from labs import plot


def test_curves_show_the_mean_and_the_range_of_the_runs():
    runs = pd.DataFrame(
        {
            "step": [0, 1, 0, 1, 0, 1],
            "loss": [2.0, 1.0, 4.0, 3.0, 9.0, 9.0],
            "net": ["a", "a", "a", "a", "b", "b"],
        }
    )
    _, ax = plot.new()
    assert plot.curves(ax, runs, "step", "loss", "net") is ax
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 2], [9, 9]]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1, 4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")


def test_a_missing_column_is_named():
    with pytest.raises(KeyError, match="no column 'lost'; there are step, loss"):
        plot.curves(plot.new()[1], pd.DataFrame({"step": [0], "loss": [1]}), "step", "lost")
