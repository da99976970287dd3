"""The template check must accept a complete lesson and name whatever is taken out of it."""

import jupytext
import pytest

from tools.template import faults

COMPLETE = """\
# %% [markdown]
# # Prove a small thing
#
# :::{admonition} Your card
# **You will be able to** count · **You need** fingers · **Time** read 1 min
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
