"""Makes the README's picture of the page, cascade/serve/page/screenshot.png: python -m tests.serve.screenshot [OUT.png]"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from cascade.pipeline import Cascade
from cascade.serve.options import SHIPPED
from tests.programs import BROWSER
from tests.serve.serving import ROOT, Serving

PROMPTS = "red apple\nlight bulb"
SEED = "0"
SIZE = {"width": 1200, "height": 860}
WAIT_MS = 150_000


def main(path: Path) -> None:
    """A real server with the weights that ship, and what a person does: all pictures are held, then refined."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Serving(Cascade.load(SHIPPED), Path(folder) / "store", name=SHIPPED.name)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=BROWSER.path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(WAIT_MS)
        take(page, server.url, path)
        browser.close()


def take(page: Page, url: str, path: Path) -> None:
    page.goto(url)
    page.fill("#prompt", PROMPTS)
    page.select_option("#label", "all")
    page.fill("#num", "1")
    page.fill("#seed", SEED)
    page.check("#hold")
    page.click("#go")
    page.wait_for_selector("#job[data-state=held]")
    page.click("#all")
    page.click("#refine")
    page.wait_for_selector("#job[data-state=finished]")
    page.wait_for_function("document.querySelectorAll('#grid .tile:not(.rough) img:not([hidden])').length === 10")
    page.wait_for_function("[...document.images].every(img => img.hidden || !img.src || img.complete)")
    page.screenshot(path=path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "cascade" / "serve" / "page" / "screenshot.png")
