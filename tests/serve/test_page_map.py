"""The map of the form: chosen or dropped, shown small, sent, put back with its job, and refused; hidden where none is taken."""

import re

import pytest

from cascade.pipeline import Cascade
from cascade.serve.http.limits import Limits
from stages.config import CondConfig
from tests.cascade.chains import tiny_config, write_cascade
from tests.serve.person import ends, picture, refused
from tests.serve.serving import ROOT, Serving, b64, until
from tests.serve.test_http_maps import png

LEFT = {"name": "left.png", "mimeType": "image/png", "buffer": png()}
TIMES = "\N{MULTIPLICATION SIGN}"
DROP = """([bytes, place]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "left.png", {type: "image/png"}));
    for (const name of ["dragenter", "dragover", "drop"])
        document.querySelector(place).dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Cascade:
    """base_8 and sr_16, both trained with gray maps, with random weights."""
    config, cond = tiny_config(), CondConfig(maps={"channels": 1})
    stages = {name: stage.model_copy(update={"cond": cond}) for name, stage in config.stages.items()}
    return Cascade.load(write_cascade(tmp_path_factory.mktemp("maps"), config.model_copy(update={"stages": stages})))


def newest(server: Serving) -> dict:
    return server.client.get("/v1/jobs?limit=1").json()["jobs"][0]


def choose(page, file=LEFT) -> None:
    page.set_input_files("#map", file)
    page.wait_for_selector("#unmap:not([hidden])")


def paint(page, *, hold: bool = False) -> None:
    """A job of one picture; the one before is no longer shown."""
    before = page.evaluate("location.hash")
    page.fill("#num", "1")
    page.set_checked("#hold", hold)
    page.click("#go")
    page.wait_for_function("before => location.hash !== before", arg=before)
    ends(page, "held" if hold else "finished")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_map_reaches_the_job_and_is_taken_out(mapped, serve, visit, how: str, width: int):
    server = serve(cascade=mapped)
    page = visit(server.url, viewport={"width": width, "height": 844})
    if how == "chosen":
        choose(page)
    else:
        page.evaluate(DROP, [list(LEFT["buffer"]), "#map-name"])
        page.wait_for_selector("#unmap:not([hidden])")
    assert page.inner_text("#map-name") == f"left.png: 32{TIMES}32 px"
    until(lambda: page.eval_on_selector("#map-shown", "img => img.naturalWidth") == 32)
    assert page.is_hidden("#unfile")  # it is not taken for a picture to upscale
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paint(page)
    job = newest(server)
    assert job["map"] == server.client.run(prompts=[], settings={}, map=b64(LEFT["buffer"]))["map"]
    assert "with a map" in page.inner_text("#meta")
    page.click("#unmap")
    assert page.is_hidden("#map-shown")
    assert page.inner_text("#map-name") == "Drop a map here, or choose one"
    paint(page)
    assert "map" not in newest(server)


def test_beside_the_map_a_drop_is_a_picture_to_upscale(mapped, serve, visit):
    page = visit(serve(cascade=mapped).url)
    page.evaluate(DROP, [list(png(8)), "#grid"])
    page.wait_for_selector("#unfile:not([hidden])")
    assert page.is_hidden("#unmap")


def test_a_held_job_is_refined_with_its_map(mapped, serve, visit):
    server = serve(cascade=mapped)
    page = visit(server.url)
    choose(page)
    paint(page, hold=True)
    held = newest(server)
    page.click("#unmap")  # the job's own is sent, whatever the form says
    page.click("#all")
    page.click("#refine")
    ends(page, "finished")
    assert (newest(server)["parent"], newest(server)["map"]) == (held["id"], held["map"])
    page.goto(f"{server.url}/#{held['id']}")
    page.reload()
    ends(page, "held")
    page.click("#all")
    page.click("#refine")
    page.wait_for_selector("#error:not([hidden])")
    assert "Choose the map that this job was made with once more" in page.inner_text("#error")
    choose(page)
    page.click("#refine")
    ends(page, "finished")


def test_used_again_with_its_map_or_the_page_asks_for_it(mapped, serve, visit):
    server = serve(cascade=mapped)
    page = visit(server.url)
    choose(page)
    paint(page)
    first = newest(server)
    page.click("#unmap")
    page.click("#reuse")
    assert page.inner_text("#map-name") == f"left.png: 32{TIMES}32 px"
    paint(page)
    assert newest(server)["map"] == first["map"]
    page.reload()
    ends(page, "finished")
    page.click("#reuse")
    assert page.inner_text("#map-name") == "The map is not kept: choose it once more"
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert "Choose the map once more, or leave it out" in page.inner_text("#error")
    page.click("#unmap")
    paint(page)
    assert "map" not in newest(server)


@pytest.mark.parametrize("file", [ROOT / "README.md", picture("gif")], ids=["text", "gif"])
def test_a_file_of_another_kind_is_refused_at_once(mapped, serve, visit, file):
    page = visit(serve(cascade=mapped).url)
    page.set_input_files("#map", file)
    page.wait_for_selector("#error:not([hidden])")
    assert re.match(r"(README.md|leaf.gif) is no picture of a kind that is taken", page.inner_text("#error"))
    assert page.is_hidden("#unmap")


def test_what_is_not_a_picture_or_has_too_many_pixels(mapped, serve, visit):
    page = visit(serve(cascade=mapped, limits=Limits(upload_pixels=1000)).url)
    page.set_input_files("#map", {**LEFT, "buffer": b"no picture"})
    until(lambda: page.inner_text("#error").startswith("left.png is no picture that this browser can read"))
    page.set_input_files("#map", LEFT)
    told = f"left.png has 32{TIMES}32 px; a map has at most 1,000 pixels"
    until(lambda: page.inner_text("#error").startswith(told))
    assert page.is_hidden("#unmap")


def test_a_coloured_map_is_refused_by_the_server(mapped, serve, visit, said):
    page = visit(serve(cascade=mapped).url)
    choose(page, {**LEFT, "buffer": png(mode="RGB")})
    refused(page, said, 422, "a coloured map, this cascade takes gray ones")


def test_a_cascade_without_maps_has_no_field_for_them(serving: Serving, visit):
    page = visit(serving.url)
    assert page.is_hidden("#map-field")
    page.evaluate(DROP, [list(png(64)), "#ask"])
    page.wait_for_selector("#unfile:not([hidden])")
