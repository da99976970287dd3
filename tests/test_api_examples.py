"""The examples of the API pages run as they stand, one after another, page by page.

What an example promises is an ``assert``; it may print what differs from machine to machine.
"""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import resnet34

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page for page in sorted((ROOT / "book" / "api").glob("*.md"))}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
READERS = ("my_runs", "VOCdevkit")  # what the reader has on the disk, and no example can bring
ELSEWHERE = {
    "studies": "it trains for as long as tests/studies does with less",
    "machine": "tests/test_doctor.py looks at the machine, in processes of its own",
    "doctor": "tests/test_doctor.py looks at the machine, in processes of its own",
}


def program(text):
    """Return the examples of a page as one program, each line where it stands on the page."""
    lines = ["\n"] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        if not any(name in block[1] for name in READERS):
            first = text.count("\n", 0, block.start(1))
            inside = block[1].splitlines(keepends=True)
            lines[first : first + len(inside)] = inside
    return "".join(lines)


def pictures():
    for place in ("pictures/cat", "pictures/dog", "copy_of_pictures"):
        folder = Path(place)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (90 * number, 10, 200)).save(folder / f"{number}.png")


def published():
    torch.save(resnet34().state_dict(), "resnet34-b627a593.pth")


# What an example takes from the reader's disk.
GIVEN = {"data": pictures, "models": published}


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"index"} - ELSEWHERE.keys()))
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    GIVEN.get(page, lambda: None)()
    code = program(PAGES[page].read_text())
    assert code.strip(), f"book/api/{page}.md shows no example that runs"
    exec(compile(code, PAGES[page], "exec"), {"__name__": "an_example"})


def test_what_stands_first_on_a_page_has_an_example():
    for page, file in PAGES.items():
        text = file.read_text()
        for module, first in re.findall(r"autoapimodule:: (\S+)\n   :members:\n +(\w+)", text):
            if page != "hunts" or module == "labs.hunts":
                assert re.search(rf"\b{first}\b", "".join(BLOCK.findall(text))), (module, first)


def test_a_program_keeps_the_lines_of_its_page_and_leaves_out_what_needs_a_file():
    examples = ["a = 1", "import my_runs", "b = 2"]
    text = "# T\n\n" + "\n".join(f"```python\n{example}\n```\n" for example in examples)
    lines = program(text).splitlines()
    assert (lines[3], lines[11]) == ("a = 1", "b = 2")
    assert [line for line in lines if line] == ["a = 1", "b = 2"]
