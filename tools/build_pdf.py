"""Print the rendered book, or one lesson, as one PDF with an outline.

    python -m tools.build_pdf
    python -m tools.build_pdf 02_predict_on_a_grid

Chromium prints each page of the site, with its folds open; pypdf joins them. The outline leads to
stages, lessons and headings. A link to a page that was printed too leads there, any other to the
published site. The tags that Chromium writes for those who listen to the book are kept, see
:mod:`tools.pdf_tags`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import Destination, Fit

from labs.progress import bar
from labs.stamp import ROOT
from tools import build_site
from tools.lesson import find
from tools.pdf_tags import TagTree

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TITLE = "Computer Vision, Debugged"
LANGUAGE = "en"
# A page that has not settled by then never will.
PATIENCE_MS = 120_000
# Continuous numbers: Chromium counts the pages of a print from where the root element says.
LOOK = """
@page {
  size: A4;
  margin: 17mm 16mm 18mm;
  @bottom-left { content: %(title)s; }
  @bottom-right { content: counter(page); }
}
@page { @bottom-left { font: 8pt sans-serif; color: #55606e; white-space: nowrap; } }
@page { @bottom-right { font: 8pt sans-serif; color: #55606e; } }
html { counter-reset: page %(before)d; }
"""
# Chromium names a place in a PDF only where a link of the same page leads to it, and describes a
# picture only by its own text: that of a row of panels goes to the first.
PREPARE = """
async ({base, site, wanted}) => {
  await window.drawFormulas?.();
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  for (const link of document.querySelectorAll("a[href]")) {
    const here = link.href.startsWith(location.href.split("#")[0] + "#");
    if (!here && link.href.startsWith(site)) link.href = base + link.href.slice(site.length);
  }
  for (const row of document.querySelectorAll("[role=img][aria-label]")) {
    const panel = row.querySelector("img");
    if (panel) panel.alt = row.ariaLabel;
    row.removeAttribute("role");
    row.classList.add("labs-panels");
  }
  for (const name of wanted) {
    const link = document.createElement("a");
    link.hidden = true;
    link.href = `#${name}`;
    document.body.append(link);
  }
  return document.querySelector("h1")?.firstChild?.textContent.trim() ?? document.title;
}
"""
HREF = re.compile(r"<a [^>]*href=\"([^\"]+)\"")


@dataclass(frozen=True)
class Place:
    """Name a page of the site and how deep it stands in the table of contents, from 0."""

    page: str
    depth: int


@dataclass(frozen=True)
class Printed:
    """Hold one page of the site as a PDF of its own."""

    place: Place
    title: str
    pdf: bytes


@dataclass(frozen=True)
class _Jump:
    """Hold a link as it was printed.

    Attributes:
        part: The first sheet of its part, counted from 0.
        sheet: On which it is.
        number: Of its object in the part; 0 where it has none of its own.
        rect: Its box on the sheet.
        to: Its full address.
    """

    part: int
    sheet: int
    number: int
    rect: Any
    to: str


def contents(toc: dict[str, Any]) -> list[Place]:
    """List the pages of ``_toc.yml`` in reading order; a stage is at depth 0, a lesson at 1."""
    return [Place(toc["root"], 0)] + [
        place
        for part in toc.get("parts", ())
        for chapter in part["chapters"]
        for place in _places(chapter, 0)
    ]


def _places(entry: dict[str, Any], depth: int) -> Iterator[Place]:
    yield Place(entry["file"], depth)
    for section in entry.get("sections", ()):
        yield from _places(section, depth + 1)


def chosen(lesson: str = "") -> list[Place]:
    """List the pages to print: all of the book, or the one lesson that ``lesson`` names.

    Raises:
        LookupError: When no lesson or several have that name.
    """
    if lesson:
        return [Place(one.name, 0) for one in find(lesson)]
    return contents(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


@contextmanager
def chromium() -> Iterator[Tab]:
    """Open Chromium, give a tab, and close it.

    Raises:
        FileNotFoundError: When this machine has neither Chromium nor Playwright's copy of it.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None and not Path(own).exists():
            raise FileNotFoundError(
                f"expected one of {', '.join(BROWSERS)} to print with, found none: "
                "apt install chromium, or python -m playwright install chromium"
            )
        browser = playwright.chromium.launch(executable_path=program or own, args=["--no-sandbox"])
        try:
            tab = browser.new_page()
            tab.set_default_timeout(PATIENCE_MS)
            yield tab
        finally:
            browser.close()


def published() -> str:
    """Return the address of the published site, with a slash at its end."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str(config["html"]["baseurl"]).rstrip("/") + "/"


def print_pages(
    tab: Tab, places: Sequence[Place], site: Path, progress: bool | None = None
) -> list[Printed]:
    """Print pages of the site, numbered from 1 to the end.

    Args:
        tab: Of a browser.
        places: In the order in which they are to stand.
        site: Where the site was rendered.
        progress: Show how far the work is; None shows it on a terminal only.
    """
    base, here = published(), site.resolve().as_uri() + "/"
    tab.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda r: r.abort())
    tab.emulate_media(media="print")
    wanted = _wanted(places, site)
    printed: list[Printed] = []
    before = 0
    for place in bar(places, progress, "pages of the site"):
        tab.goto(f"{here}{place.page}.html")
        names = sorted(wanted[place.page])
        title = tab.evaluate(PREPARE, {"base": base, "site": here, "wanted": names})
        tab.add_style_tag(
            content=LOOK % {"title": json.dumps(title, ensure_ascii=False), "before": before}
        )
        pdf = tab.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
        printed.append(Printed(place, title, pdf))
        before += len(PdfReader(io.BytesIO(pdf)).pages)
    return printed


def _wanted(places: Sequence[Place], site: Path) -> dict[str, set[str]]:
    """Return, for each page, the names on it that links of other pages lead to."""
    wanted: dict[str, set[str]] = {place.page: set() for place in places}
    for place in places:
        source = (site / f"{place.page}.html").read_text(encoding="utf-8")
        for href in HREF.findall(source):
            address, _, name = urljoin(f"/{place.page}.html", unescape(href)).partition("#")
            page = address.removeprefix("/").removesuffix(".html")
            if name and page in wanted and page != place.page:
                wanted[page].add(unquote(name))
    return wanted


def join(printed: Sequence[Printed], base: str, title: str = TITLE) -> PdfWriter:
    """Join printed pages into one tagged PDF with a nested outline, and make links lead inside it.

    Args:
        printed: In reading order.
        base: What the address of a page begins with, where a link does not say ``#name`` alone.
        title: Of the whole.
    """
    writer = PdfWriter()
    readers: dict[int, PdfReader] = {}
    spots: dict[str, tuple[int, float | None]] = {}
    jumps: list[_Jump] = []
    above: list[Any] = []  # the outline's item of each depth
    for part in printed:
        reader, start = PdfReader(io.BytesIO(part.pdf)), len(writer.pages)
        readers[start] = reader
        address = f"{base}{part.place.page}.html"
        spots[address] = (start, None)
        for name, named in reader.named_destinations.items():
            spots[f"{address}#{name.removeprefix('/')}"] = _spot(reader, named, start)
        for sheet, page in enumerate(reader.pages, start):
            jumps += (_Jump(start, sheet, *link) for link in _links(page.annotations, address))
        writer.append(reader, import_outline=False, excluded_fields=("/Annots", "/StructParents"))
        del above[part.place.depth :]
        item = writer.add_outline_item(
            title=part.title,
            page_number=start,
            parent=above[-1] if above else None,
            is_open=False,
        )
        above.append(item)
        _nest(writer, reader, _below_title(reader.outline), start, item)
    writer.compress_identical_objects()  # each page brought its own fonts
    tags = TagTree(writer, LANGUAGE)
    for start, reader in readers.items():
        tags.graft(reader, start)
    for jump in jumps:
        spot = spots.get(jump.to) or spots.get(jump.to.partition("#")[0])
        if spot is None:
            link = Link(rect=jump.rect, url=jump.to)
        else:
            link = Link(rect=jump.rect, target_page_index=spot[0], fit=_fit(spot[1]))
        annotation = writer.add_annotation(jump.sheet, link)
        tags.link(jump.part, jump.number, annotation)
    tags.finish()
    writer.add_metadata({"/Title": title, "/Author": f"The {TITLE} authors"})
    writer.page_mode = "/UseOutlines"
    return writer


def _links(annotations: Any, address: str) -> Iterator[tuple[int, Any, str]]:
    for found in annotations or ():
        annotation, number = found.get_object(), getattr(found, "idnum", 0)
        if "/Dest" in annotation:
            name = str(annotation["/Dest"]).removeprefix("/")
            yield number, annotation["/Rect"], f"{address}#{name}"
        elif "/URI" in (action := annotation.get("/A", {})):
            yield number, annotation["/Rect"], str(action["/URI"])


def _spot(reader: PdfReader, spot: Destination, start: int) -> tuple[int, float | None]:
    sheet = reader.get_destination_page_number(spot) or 0
    return start + sheet, None if spot.top is None else float(spot.top)


def _fit(top: float | None) -> Fit:
    return Fit.xyz(left=0, top=top) if top is not None else Fit.fit_horizontally()


def _below_title(outline: list[Any]) -> list[Any]:
    """Leave out the item of a page's title, which the book's own outline names already."""
    return outline[1] if len(outline) == 2 and isinstance(outline[1], list) else outline[1:]


def _nest(writer: PdfWriter, reader: PdfReader, items: list[Any], start: int, parent: Any) -> None:
    last = parent
    for item in items:
        if isinstance(item, list):
            _nest(writer, reader, item, start, last)
        else:
            sheet, top = _spot(reader, item, start)
            title = " ".join(str(item.title).split())
            last = writer.add_outline_item(
                title=title, page_number=sheet, parent=parent, fit=_fit(top), is_open=False
            )


def build(lesson: str = "", site: Path = build_site.SITE, folder: Path = build_site.BUILD) -> Path:
    """Print the book, or one lesson, and return where the PDF was written.

    Args:
        lesson: A path with or without extension, or a part of a name that only one lesson has.
        site: Where the site was rendered.
        folder: Where the PDF is written: ``book.pdf``, or the name of the lesson.

    Raises:
        FileNotFoundError: When there is no Chromium here.
        LookupError: When no lesson or several have that name.
    """
    places = chosen(lesson)
    with chromium() as tab:
        printed = print_pages(tab, places, site)
    title = f"{printed[0].title} · {TITLE}" if lesson else TITLE
    writer = join(printed, published(), title)
    path = folder / (f"{Path(places[0].page).name}.pdf" if lesson else "book.pdf")
    writer.write(path)
    return path


def main(lesson: str = "") -> int:
    """Print, say what was written, and return the exit status."""
    if not build_site.is_fresh():
        return _complain("expected a site of the sources as they are: make book")
    try:
        path = build(lesson)
    except (FileNotFoundError, LookupError) as error:
        return _complain(str(error))
    sheets = len(PdfReader(path).pages)
    print(f"printed {path.relative_to(ROOT)}: {sheets} pages, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _complain(message: str) -> int:
    print(f"build_pdf: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
