"""Let no test depend on how fast the machine is, nor on how the tests were started."""

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, settings

from tests.order import place

# Hypothesis fails a test whose examples take long, by default: a busy machine is no fault.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell starts what runs in the background with Ctrl-C ignored, and every process started from
# there inherits it: the tests that send Ctrl-C would wait for ever.
ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
if ignored and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Start with the files that take long; each keeps the order of its own tests."""

    def of(item):
        inside = item.path.is_relative_to(config.rootpath)
        return place(item.path.relative_to(config.rootpath).as_posix() if inside else "")

    items.sort(key=of)


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = "no Chromium here: apt install chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def apart():
    """Return a function that calls another on a thread of its own.

    A thread can drive one Playwright at a time, and the browser above is open to the end.
    """
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
