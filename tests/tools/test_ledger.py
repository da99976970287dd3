"""The ledger must say what the notebooks say, all of it, and nothing else."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import ledger, lesson, measured
from tools.lesson import Lesson

RUN = {"date": "2026-01-02", "device": "x86_64, 1 thread", "python": "3.11", "torch": "2.14.1"}


def printing(text, tags=("nbval-check-output",)):
    return new_code_cell("…", metadata={"tags": [*tags]}, outputs=[new_output("stream", text=text)])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Build a project with two lessons, the second of which was never measured."""
    monkeypatch.setattr(lesson, "ROOT", tmp_path)
    monkeypatch.setattr(lesson, "LESSONS", tmp_path / "lessons")
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "lessons/measured")
    card = "- **You will be able to** count\n  slowly.\n- **You need** fingers.\n"
    card += "- **Time** read 15 min · debug 25 min\n  · hunt 45 min"
    counting = [
        new_markdown_cell(f"# Count to ten\n\n:::{{admonition}} Your card\n{card}\n:::"),
        printing("✓ ten is at most 10\n✓ a_b * c is $3\n"),
        printing("plain words\n"),
        printing("✓ not checked by the tests\n", tags=()),
    ]
    write(tmp_path, "00_start/01_count", counting)
    write(tmp_path, "01_next/01_rest", [new_markdown_cell("# Rest")])
    run = {**RUN, "seconds": 90.0, "cpu_seconds": 41.6, "peak_mb": 910}
    record = measured.record_file("lessons/00_start/01_count")
    record.parent.mkdir(parents=True)
    record.write_text(measured.text({"cpu": run}))
    return tmp_path


def write(root, name, cells):
    path = root / f"lessons/{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), path)
    path.with_suffix(".py").write_text("")


@pytest.mark.usefixtures("project")
class TestLedger:
    def test_reads_title_abilities_and_measurements(self):
        entry = ledger.read(Lesson("lessons/00_start/01_count"))
        assert entry.title == "Count to ten"
        assert entry.abilities == "count slowly."
        assert [(run.seconds, run.peak_mb) for run in entry.runs] == [(41.6, 910)]

    def test_collects_the_claims_of_checked_cells_only(self):
        entry = ledger.read(Lesson("lessons/00_start/01_count"))
        assert entry.claims == ("ten is at most 10", "a_b * c is $3")

    def test_keeps_the_reading_order_and_can_be_limited_to_a_stage(self):
        assert [entry.title for entry in ledger.entries()] == ["Count to ten", "Rest"]
        assert [entry.title for entry in ledger.entries("01_next")] == ["Rest"]

    def test_the_page_holds_every_lesson_and_claim_as_it_was_printed(self):
        page = ledger.ledger_page(ledger.entries())
        assert page.startswith("2 lessons, 2 claims.")
        assert "| [](/lessons/00_start/01_count.ipynb) | 42\u00a0s | 910\u00a0MB |" in page
        assert "All were executed on x86_64, 1 thread; Python" in page  # all rows say the same
        assert '<li id="claim-01-count-2">' in page
        assert 'href="../lessons/00_start/01_count.html#claim-2"' in page
        assert '<details class="claims-of"><summary>2 claims</summary>' in page
        assert "</a> a_b * c is $3</li>" in page  # raw HTML: Markdown changes nothing in it
        assert "(claims-01_rest)=\n## Rest\n\nIt makes no claim yet." in page

    def test_the_page_is_the_same_every_time(self):
        assert ledger.ledger_page(ledger.entries()) == ledger.ledger_page(ledger.entries())

    def test_every_row_of_a_table_has_all_columns(self):
        for written in (ledger.stage_table(ledger.entries()), ledger.ledger_page(ledger.entries())):
            rows = [line for line in written.splitlines() if line.startswith("|")]
            assert len({row.count("|") for row in rows}) == 1

    def test_the_facts_name_the_run_the_claims_and_both_files(self):
        line = ledger.facts(ledger.read(Lesson("lessons/00_start/01_count")))
        assert "Runs in 42\u00a0s and 910 MB on x86_64, 1 thread (2026-01-02)" in line
        assert "[2 claims](#claims-01_count)" in line
        assert "{download}`.ipynb <01_count.ipynb>`" in line
        assert "{download}`.py <01_count.py>`" in line

    def test_a_lesson_never_measured_still_offers_its_files(self):
        line = ledger.facts(ledger.read(Lesson("lessons/01_next/01_rest")))
        assert line == "{download}`.ipynb <01_rest.ipynb>` · {download}`.py <01_rest.py>`"

    def test_the_place_names_stage_lesson_and_the_time_people_need(self, project):
        entry = ledger.read(Lesson("lessons/00_start/01_count"))
        assert entry.number == "0.1"
        assert ledger.place(entry) == "Stage 0 · Lesson 1 of 1 · 1 h 25 min"
        assert (
            ledger.place(ledger.read(Lesson("lessons/01_next/01_rest")))
            == "Stage 1 · Lesson 1 of 1"
        )

    def test_a_lesson_without_a_title_is_refused(self, project):
        write(project, "02_none/01_none", [new_markdown_cell("words")])
        with pytest.raises(ValueError, match=r"02_none/01_none: expected .* `# Title`, found none"):
            ledger.entries()
