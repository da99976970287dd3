"""The template check must accept a complete lesson and name whatever is taken out of it."""

import jupytext
import pytest

from tools.template import faults, faults_of_form

COMPLETE = """\
# %% [markdown]
# # Prove a small thing
#
# :::{admonition} Your card
# **You will be able to** count · **You need** fingers · **Time** read 1 min · debug 1 min ·
# experiment 1 min · reproduce 1 min · hunt 1 min · exercises 1 min
# :::

# %% [markdown]
# ## The symptom

# %% [markdown]
# ## The idea

# %% [markdown]
# ## The block

# %% tags=["nbval-check-output"]
claim("the block", True)

# %% [markdown]
# ## Debug: look inside
#
# :::{admonition} Predict
# What?
# :::

# %%
look()

# %% tags=["nbval-check-output"]
claim("the debug", True)

# %% [markdown]
# ## Experiment

# %%
study = ablate(run, base, "x", [1, 2])

# %% tags=["nbval-check-output"]
claim("the experiment", True)

# %% [markdown]
# ## Reproduce
#
# {cite:t}`he2016deep` say so.

# %% tags=["nbval-check-output"]
claim("the paper", True)

# %% [markdown]
# ## Bug hunt
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# Met in [a project](https://github.com/a/b/issues/1).

# %% tags=["hunt-bug"]
broken = 1

# %% [markdown]
# :::{dropdown} Hint 1
# :::
# :::{dropdown} Hint 2
# :::
# :::{dropdown} Hint 3
# :::

# %% tags=["hunt-solution", "hide-cell"]
fixed = 2

# %% tags=["nbval-check-output"]
claim("the fix", True)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Count. **Exercise 2.** Count on.
#
# :::{dropdown} Solution 1
# :::
# :::{dropdown} Solution 2
# :::

# %% [markdown]
# ## In practice

# %% [markdown]
# ## You can now
"""


def lesson(text):
    return jupytext.reads(text, fmt="py:percent")


def test_a_complete_lesson_has_no_fault():
    assert faults(lesson(COMPLETE)) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param("# # Prove", "# Prove", "level-one title", id="no title"),
        pytest.param("**You need**", "You need", "card lacks the line **You need**", id="no need"),
        pytest.param("## The idea", "## Idea", "expected the headings", id="renamed beat"),
        pytest.param("} Predict", "} Note", "never asks for a prediction", id="no prediction"),
        pytest.param("ablate(", "compare(", "no one-variable ablation", id="no ablation"),
        pytest.param("{cite:t}", "", "cites no paper", id="no citation"),
        pytest.param('claim("the paper", True)', "1", "'Reproduce' makes no claim", id="no claim"),
        pytest.param("Hint 2", "Hint", "lacks Hint 2", id="no hint"),
        pytest.param("https://github.com/", "", "where the bug was met", id="no source"),
        pytest.param(', "hide-cell"', "", "not folded", id="open solution"),
        pytest.param('tags=["hunt-bug"]', "", "one cell tagged hunt-bug", id="no bug"),
        pytest.param("Solution 2", "2", "each solved", id="unsolved exercise"),
        pytest.param("**Exercise 2.**", "", "2 to 4 exercises", id="one exercise"),
        pytest.param("fixed = 2", "fixed = 2\n" * 41, "at most 40", id="long cell"),
        pytest.param(
            '# %% tags=["nbval-check-output"]\nclaim("the fix"',
            '# %%\nclaim("the fix"',
            "is not tagged",
            id="unchecked claim",
        ),
    ],
)
def test_what_is_taken_out_is_named(old, new, fault):
    assert old in COMPLETE
    found = faults(lesson(COMPLETE.replace(old, new)))
    assert any(fault in line for line in found), found


def test_a_complete_lesson_has_the_form():
    assert faults_of_form(lesson(COMPLETE)) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param("look()", "look(" + 90 * "x" + ")", "line of 96 columns", id="columns"),
        pytest.param(
            "# %%\nlook()", "# %% [markdown]\n# words", "not followed by the code", id="no code"
        ),
        pytest.param(
            "# What?\n# :::", "# What?\n# :::\n#\n# words", "not the last thing", id="words"
        ),
        pytest.param(
            "**Importance** 3 of 3", "", "lacks its line **Difficulty**", id="no difficulty"
        ),
        pytest.param("**Difficulty** 1", "**Difficulty** 4", "lacks its line", id="too difficult"),
        pytest.param(
            "fixed = 2", "broken = 2", "defines broken as the planted cell", id="same name"
        ),
        pytest.param(
            '# :::\n\n# %% tags=["hunt-solution',
            '# :::\n# It was this.\n\n# %% tags=["hunt-solution',
            "below the hints",
            id="spoiled",
        ),
        pytest.param(
            '# %% tags=["hunt-solution',
            '# %% [markdown]\n# It was.\n\n# %% tags=["hunt-solution',
            "between the hints",
            id="spoiled in a cell",
        ),
        pytest.param("exercises 1 min", "", "minutes of: exercises", id="no time"),
        pytest.param(
            "look()", "gap = plot.show(f, 'a')\n# %%\nprint(gap)", "defines gap", id="hidden"
        ),
    ],
)
def test_what_leaves_the_form_is_named(old, new, fault):
    assert old in COMPLETE
    found = faults_of_form(lesson(COMPLETE.replace(old, new)))
    assert any(fault in line for line in found), found
