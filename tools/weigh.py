"""Weigh pages of the book as a reader meets them: what is fetched before scrolling, and when.

    python -m tools.weigh [PAGE ...]

Bytes are those on the wire of a server that compresses nothing, with an empty cache. The first
paint is of a processor made four times slower. The shift is Chromium's own sum of how far what is
in sight was moved after it was shown. Times are this machine's: no test reads them.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from tools.build_site import SITE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LAPTOP = {"width": 1280, "height": 900}
SLOWER = 4
PATIENCE = 120  # seconds; a busy machine is no fault of the page
PAGES = ("book/index", "book/glossary", "lessons/02_detection/01_measure_boxes_and_map")
OBSERVE = """
window.moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
PAINTED = 'performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN'


@dataclass(frozen=True)
class Weight:
    """What one page costs a reader who has not scrolled.

    Attributes:
        bytes: Fetched in all, headers included.
        requests: How many.
        paint: Milliseconds to the first paint of content.
        shift: Cumulative layout shift; 0 where nothing moved.
    """

    bytes: int
    requests: int
    paint: float
    shift: float


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine, and yield its address."""
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def weigh(browser: Browser, address: str, slower: float = 1) -> Weight:
    """Open a page with an empty cache, let it come to rest, and return what it cost.

    Args:
        browser: A Chromium.
        address: Of a page that is served; a page on a disk fetches nothing that can be counted.
        slower: How many times slower the processor shall be.
    """
    context = browser.new_context(viewport=LAPTOP)  # type: ignore[arg-type]
    try:
        tab = context.new_page()
        wire = context.new_cdp_session(tab)
        wire.send("Network.enable")
        sizes: list[float] = []  # an icon inside a style sheet is no request, and has no length
        wire.on(
            "Network.loadingFinished",
            lambda event: sizes.extend(filter(None, [event["encodedDataLength"]])),
        )
        if slower != 1:
            wire.send("Emulation.setCPUThrottlingRate", {"rate": slower})
        tab.add_init_script(OBSERVE)
        tab.goto(address, timeout=1000 * PATIENCE)
        tab.wait_for_load_state("networkidle")
        return Weight(
            bytes=int(sum(sizes)),
            requests=len(sizes),
            paint=tab.evaluate(PAINTED),
            shift=tab.evaluate("window.moved"),
        )
    finally:
        context.close()


def main() -> None:
    """Print a line for each page."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", default=PAGES, help="without .html")
    parser.add_argument("--site", type=Path, default=SITE, help="the rendered book")
    parser.add_argument("--times", type=int, default=3, help="paints; the median is shown")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    print(f"{'kB':>6} {'requests':>8} {'paint, ms':>9} {'shift':>6}  page")
    with served(options.site) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for page in options.pages:
            address = f"{home}/{page}.html"
            seen = [weigh(browser, address, SLOWER) for _ in range(options.times)]
            paint = statistics.median(weight.paint for weight in seen)
            shift = max(weight.shift for weight in seen)
            size = seen[0].bytes / 1000
            print(f"{size:6.0f} {seen[0].requests:8d} {paint:9.0f} {shift:6.3f}  {page}")
        browser.close()


if __name__ == "__main__":
    main()
