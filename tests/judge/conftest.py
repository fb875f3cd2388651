"""A browser for the tests of pages."""

import pytest

from tests.programs import BROWSER


@pytest.fixture(scope="module")  # two at once in a process are one too many for Playwright
def browser():
    if BROWSER.path is None:
        pytest.skip(BROWSER.missing)
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=BROWSER.path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()
