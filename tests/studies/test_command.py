import pytest

from labs.studies import command, making, record
from tests.studies.small import EXPERIMENT


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Let there be one study, and its record in a folder of its own."""
    monkeypatch.setattr(command, "STUDIES", {"small": "tests.studies.small"})
    monkeypatch.setattr(command, "find", lambda name: {"small": EXPERIMENT}[name])
    for function in (making.make, making.revalidate, record.read_record, record.write_record):
        monkeypatch.setattr(function, "__defaults__", (*function.__defaults__[:-1], tmp_path))
    return ["--store", str(tmp_path / "store")]


def test_a_study_is_run_listed_and_revalidated(alone, capsys, monkeypatch):
    assert command.main(alone) == 1
    assert "no record" in capsys.readouterr().out
    assert command.main(["small", *alone]) == 0
    assert "| 0.4 | 1.01e-07" in capsys.readouterr().out
    assert command.main(alone) == 0
    assert "fresh" in capsys.readouterr().out
    hashes = making._hashes
    monkeypatch.setattr(making, "_hashes", lambda e: {**hashes(e), "labs.train": "new"})
    assert command.main(alone) == 1
    assert "stale: 1 parts changed" in capsys.readouterr().out
    assert command.main(["--revalidate", *alone]) == 0
    assert "labs.train changed; the first steps of every arm: agrees" in capsys.readouterr().out
    assert command.main(["--stale", *alone]) == 0


def test_what_is_due_is_run(alone, capsys):
    assert command.main(["--revalidate", *alone]) == 1
    assert "small: due: no record of a study 'small'" in capsys.readouterr().out
    assert command.main(["--stale", *alone]) == 0
    assert command.main(alone) == 0


def test_an_unknown_study_is_refused(capsys):
    assert command.main(["levles"]) == 2
    assert "did you mean 'levels'" in capsys.readouterr().err
