"""A mark for tests in a real Chromium, and the Chromium."""

import shutil
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

CHROMIUM = shutil.which("chromium")


def reason():
    if CHROMIUM is None:
        return "chromium is not installed: apt-get install chromium"
    return "" if find_spec("playwright") else "playwright is not installed: pip install playwright"


needs_chromium = pytest.mark.skipif(bool(reason()), reason=reason())


@contextmanager
def chromium():
    """Run a headless Chromium while a block runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def playwright_timeout():
    """Return the error of what did not happen in time."""
    from playwright import sync_api

    return sync_api.TimeoutError
