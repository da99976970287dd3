import pandas as pd
import torch

from labs.hunts import examine


def doubles(candidate):
    assert candidate(2) == 4, f"2 became {candidate(2)}"
    return "2 became 4"


def keeps_zero(candidate):
    assert candidate(0) == 0
    return "0 stayed 0"


PROBES = {"doubles": doubles, "keeps zero": keeps_zero}


def test_a_right_fix_passes_every_probe():
    verdict = examine("double", lambda x: 2 * x, PROBES)
    assert verdict
    assert "solved (2/2 probes)" in repr(verdict)


def test_a_wrong_fix_says_which_probe_failed_and_what_was_seen():
    verdict = examine("double", lambda x: x + 1, PROBES)
    assert not verdict
    assert [probe.passed for probe in verdict.probes] == [False, False]
    assert "✗ doubles: 2 became 3" in repr(verdict)


def test_a_fix_that_crashes_is_a_wrong_fix():
    verdict = examine("double", lambda x: 1 / 0, PROBES)
    assert [probe.passed for probe in verdict.probes] == [False, False]
    assert "ZeroDivisionError" in verdict.probes[0].seen


def test_the_table_has_a_row_per_probe():
    table = examine("double", lambda x: 2 * x, PROBES).table()
    expected = pd.DataFrame(
        {"question": list(PROBES), "passed": [True, True], "seen": ["2 became 4", "0 stayed 0"]}
    )
    pd.testing.assert_frame_equal(table, expected)


def test_probes_start_from_one_seed_and_leave_the_random_state_alone():
    def draws(candidate):
        return str(candidate())

    state = torch.get_rng_state()
    verdict = examine("chance", lambda: torch.rand(1).item(), {"one": draws, "two": draws})
    assert verdict.probes[0].seen == verdict.probes[1].seen
    assert torch.equal(torch.get_rng_state(), state)
