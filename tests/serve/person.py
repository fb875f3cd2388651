"""What a person does on the page, and sees there; for the tests in a browser."""

import io
import re

from PIL import Image

from tests.serve.serving import Serving

SHOWN = "#grid img:not([hidden])"
EVENTS = re.compile(r"/v1/events\?")


def ask(page, prompt: str = "red heart", num: int = 2, *, hold: bool = False) -> None:
    page.fill("#prompt", prompt)
    page.fill("#num", str(num))
    if hold:
        page.check("#hold")
    page.click("#go")


def ends(page, state: str) -> None:
    page.wait_for_selector(f"#job[data-state={state}]")


def refused(page, said: list[str], status: int, told: str) -> None:
    """The form's job, which the server answers by this status, and what the page tells of it."""
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert told in page.inner_text("#error")
    assert all(str(status) in line for line in said)  # the browser's own line about the answer
    said.clear()


def delete_job(page) -> None:
    """The one that is shown; the second click counts when it does not follow at once."""
    while page.is_visible("#job"):
        page.click("#delete")
        page.wait_for_timeout(600)


def sides(page) -> list[int]:
    """Natural widths of the pictures that are shown."""
    return page.eval_on_selector_all(SHOWN, "all => all.map(img => img.naturalWidth)")


def states(server: Serving) -> list[str]:
    """Of all jobs, the newest first."""
    return [job["state"] for job in server.client.get("/v1/jobs").json()["jobs"]]


def picture(kind: str, side: int = 32) -> dict[str, object]:
    """A file to choose."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), "green").save(content, kind)
    return {"name": f"leaf.{kind}", "mimeType": f"image/{kind}", "buffer": content.getvalue()}
