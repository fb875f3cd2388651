"""The pictures in five styles, from a small registry of tarballs that has the real packages' names and layout."""

import io
import json
import os
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.styles import __main__ as command
from data.styles import folder as making
from data.styles.captions import captions
from data.styles.concepts import Concept, code_of, concepts, plain
from data.styles.hidden import FINISHES, Hidden, half_of, hide, thing_of
from data.styles.packages import DERIVED, GROUPS, KEYWORDS, PACKAGES, PICTURES, fetch, read
from tests.calling import call

pytest.importorskip("resvg_py")

BASH = shutil.which("bash")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">{}</svg>'
DISC = '<circle cx="18" cy="18" r="12" fill="{}"/>'
NAMES = {  # characters: name, group, subgroup, keywords
    "🍎": ("red apple", "Food & Drink", "food-fruit", ["apple", "fruit", "red", "red apple"]),
    "🦀": ("crab", "Food & Drink", "food-marine", ["Cancer", "crab", "zodiac"]),
    "⭕": ("hollow red circle", "Symbols", "geometric", ["circle", "hollow red circle", "large", "o", "red"]),
    "👨‍⚖️": ("man judge", "People & Body", "person-role", ["judge", "justice", "man", "man judge", "scales"]),
    "👩‍⚖️": ("woman judge", "People & Body", "person-role", ["judge", "scales", "woman", "woman judge"]),
    "👪": ("family", "People & Body", "person-symbol", ["family"]),
    "🦰": ("red hair", "Component", "hair-style", ["ginger", "red hair", "redhead"]),
    "👋🏿": ("waving hand: dark skin tone", "People & Body", "hand-fingers-open", ["hand"]),
}
CODES = {text: code_of(text) for text in NAMES}
ALL = len(PICTURES) * 6  # hair is no emoji, and tones are left out


def write_tarball(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def as_json(content) -> bytes:
    return json.dumps(content).encode()


def webp(side: int) -> bytes:
    file = io.BytesIO()
    picture = Image.new("RGBA", (side, side))
    picture.paste((255, 0, 0, 255), (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    picture.save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    """A folder of tarballs, as `npm pack` leaves them."""
    folder = tmp_path_factory.mktemp("registry")
    chars = {code: f"icon-{number}" for number, code in enumerate(CODES.values())}

    def icons(colour):
        set_of = {name: {"body": DISC.format(colour)} for name in chars.values()}
        return as_json({"icons": set_of, "width": 36, "height": 36})

    told = {text: {"default": row[3], "tts": [row[0]]} for text, row in NAMES.items()}
    files = {
        PICTURES["noto"]: {"icons.json": icons("green"), "chars.json": as_json(chars)},
        PICTURES["noto v1"]: {"icons.json": icons("blue")},
        PICTURES["fluent flat"]: {"icons.json": icons("red"), "chars.json": as_json(chars)},
        PICTURES["twemoji"]: {
            "license": b"MIT",
            **{f"{code}.svg": SVG.format(DISC.format("black")).encode() for code in CODES.values()},
        },
        PICTURES["fluent 3d"]: {f"assets/{code}.webp": webp(48) for code in (*CODES.values(), "1f47b")},
        KEYWORDS: {"annotations/en/annotations.json": as_json({"annotations": {"annotations": told}})},
        DERIVED: {"annotationsDerived/en/annotations.json": as_json({"annotationsDerived": {"annotations": {}}})},
        GROUPS: {
            "emoji.json": as_json(
                [
                    {"codes": " ".join(f"{ord(c):X}" for c in text), "group": row[1], "subgroup": row[2]}
                    for text, row in NAMES.items()
                ]
            )
        },
    }
    for package in PACKAGES:
        write_tarball(folder / package.tarball, files[package])
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_drawn_with_their_rows_and_licences(registry, tmp_path):
    assert making.make(tmp_path / "made", 32, registry)
    rows = rows_of(tmp_path / "made")
    assert len(rows) == ALL
    assert Counter(row["label"] for row in rows) == dict.fromkeys(PICTURES, 6)
    middle = {"noto": (0, 128, 0), "noto v1": (0, 0, 255), "fluent flat": (255, 0, 0), "twemoji": (0, 0, 0)}
    for row in rows:
        with Image.open(tmp_path / "made" / row["file_name"]) as picture:
            assert (picture.mode, picture.size) == ("RGBA", (32, 32))
            assert picture.getpixel((1, 1))[3] == 0
            assert picture.getpixel((16, 16)) == (*middle.get(row["style"], (255, 0, 0)), 255)
    apple = next(row for row in rows if row["file_name"] == "noto/1f34e.png")
    assert apple["text"] == apple["name"] == "red apple"
    assert apple["keywords"] == ["apple", "fruit", "red", "red apple"]
    notice = (tmp_path / "made" / "NOTICE").read_text()
    assert all(package.spec in notice for package in PACKAGES)
    assert {path.name for path in tmp_path.iterdir()} == {"made"}


def test_a_finished_folder_is_left_alone_and_anything_else_is_refused(registry, tmp_path):
    making.make(tmp_path / "made", 16, registry)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    assert not making.make(tmp_path / "made", 16, tmp_path / "no tarballs")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before
    with pytest.raises(ValueError, match="holds something else; remove it, or choose another folder"):
        making.make(tmp_path / "made", 32, registry)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        making.make(tmp_path / "mine", 16, registry)
    assert contents(tmp_path / "mine") == {"letter.txt": b"mine"}
    with pytest.raises(ValueError, match="--size 0 must be from 1 to"):
        making.make(tmp_path / "other", 0, registry)


def test_an_interrupted_run_leaves_whole_pictures_beside_and_goes_on(registry, tmp_path, monkeypatch):
    drawn = []

    def until_the_tenth(job):
        if len(drawn) == 10:
            raise KeyboardInterrupt
        drawn.append(job)
        return render(job, 16)

    render = making.render
    monkeypatch.setattr(making, "allowed", lambda: 1)
    monkeypatch.setattr(making, "render", lambda drawing, size: until_the_tenth(drawing))
    with pytest.raises(KeyboardInterrupt):
        making.make(tmp_path / "made", 16, registry)
    assert {path.name for path in tmp_path.iterdir()} == {"made.part"}
    assert not (tmp_path / "made.part" / "metadata.jsonl").exists()
    assert len(list((tmp_path / "made.part").rglob("*.png"))) == 10
    with pytest.raises(ValueError, match=r"made\.part is there and is no beginning of this"):
        making.make(tmp_path / "made", 32, registry)
    monkeypatch.setattr(making, "render", lambda drawing, size: drawn.append(drawing) or render(drawing, size))
    making.make(tmp_path / "made", 16, registry)
    assert len(drawn) == ALL
    making.make(tmp_path / "at once", 16, registry)
    assert contents(tmp_path / "made") == contents(tmp_path / "at once")
    assert {path.name for path in tmp_path.iterdir()} == {"made", "at once"}


def test_several_captions_are_rows_of_linked_pictures_that_pack(registry, tmp_path):
    assert making.make(tmp_path / "made", 16, registry)
    assert making.caption(tmp_path / "made", tmp_path / "captions")
    assert not making.caption(tmp_path / "made", tmp_path / "captions")
    rows = rows_of(tmp_path / "captions")
    for plain_row in rows_of(tmp_path / "made"):
        name = plain_row["file_name"].removesuffix(".png")
        mine = [row for row in rows if row["file_name"].startswith(f"{name}.")]
        assert [row["text"] for row in mine] == captions(plain_row)
        assert all(row | {"file_name": 0, "text": 0} == plain_row | {"file_name": 0, "text": 0} for row in mine)
        for row in mine:
            assert (tmp_path / "captions" / row["file_name"]).samefile(tmp_path / "made" / plain_row["file_name"])
    index = pack(tmp_path / "captions", tmp_path / "shards", PackSettings(size=16, alpha=True), workers=0)
    assert index.classes == sorted(PICTURES)
    assert index.num_images == Counter(row["split"] for row in rows)


def test_the_command_tells_what_it_made(registry, tmp_path, capsys):
    arguments = [tmp_path / "made", "--size", "16", "--captions", tmp_path / "more", "--packages", registry]
    assert call(command.main, *arguments) == 0
    first = capsys.readouterr().out
    assert f"{tmp_path / 'made'}: {ALL} rows\n" in first
    assert "twemoji: " in first
    assert call(command.main, *arguments) == 0
    assert f"{tmp_path / 'made'}: {ALL} rows, complete already\n" in capsys.readouterr().out
    assert call(command.main, tmp_path / "new", "--captions", tmp_path / "new") == 2
    assert "--captions" in capsys.readouterr().err


def test_names_come_without_tones_hair_and_selectors(registry):
    found = concepts(registry)
    assert set(found) == {"1f34e", "1f980", "2b55", "1f468-200d-2696", "1f469-200d-2696", "1f46a"}
    assert found["1f46a"].subgroup == "family"  # moved back to its kin
    assert plain("0023-FE0F-20E3") == "23-20e3"


def concept(subgroup: str = "person-role") -> Concept:
    return Concept(name="x", group="People & Body", subgroup=subgroup, keywords=())


@pytest.mark.parametrize(
    ("code", "thing"),
    [
        ("1f468-200d-2696", "person-2696"),
        ("1f469-200d-2696", "person-2696"),
        ("1f9d1-200d-2696", "person-2696"),
        ("1f646-200d-2642", "1f646"),
        ("1f646", "1f646"),
        ("1f468", "1f468"),  # a man alone differs from a woman alone
    ],
)
def test_a_thing_has_no_gender(code, thing):
    assert thing_of(code, concept()) == thing
    assert thing_of(code, concept("family")) == "family"


STYLES = frozenset(PICTURES)


def test_a_fifth_of_things_hides_one_family_of_styles_and_a_twentieth_one_finish():
    found = [hide(f"{number:x}", STYLES) for number in range(4000)]
    parts = Counter(each.part for each in found)
    assert parts["unseen pair"] == pytest.approx(800, abs=100)
    assert parts["unseen finish"] == pytest.approx(200, abs=55)
    pairs = Counter(each.styles for each in found if each.part == "unseen pair")
    assert set(pairs) == {FINISHES, *(frozenset((style,)) for style in STYLES - FINISHES)}
    assert min(pairs.values()) > 140
    assert {each.styles for each in found if each.part == "unseen finish"} == {frozenset((each,)) for each in FINISHES}
    halves = Counter(half_of(f"{number:x}") for number in range(3000))
    assert halves["dev"] == pytest.approx(1000, abs=110)


def test_nothing_is_hidden_that_too_few_styles_show():
    for number in range(400):
        assert hide(f"{number:x}", {"noto", "twemoji"}) == Hidden()
        assert hide(f"{number:x}", {*FINISHES, "noto"}).part != "unseen pair"  # two families
        left = STYLES - hide(f"{number:x}", STYLES).styles
        assert len({"fluent" if style in FINISHES else style for style in left}) >= 3


def test_the_hidden_things_are_those_of_the_weights_that_ship():
    """The rule is not to move: who trains on would train on what is reported as unseen."""
    found = {thing: (hide(thing, STYLES).part, half_of(thing)) for thing in ("1f34e", "1f980", "1f192", "1f330")}
    assert found == {
        "1f34e": ("unseen pair", "test"),
        "1f980": ("unseen pair", "dev"),
        "1f192": ("unseen finish", "dev"),
        "1f330": ("unseen finish", "test"),
    }
    assert {hide(thing, STYLES).part for thing in ("person-2696", "1f600", "family", "1f37a")} == {"train"}


def row(**changes) -> dict:
    return {
        "name": "red apple", "part": "train", "thing": "1f34e", "group": "Food & Drink", "subgroup": "food-fruit",
        "keywords": ["apple", "fruit", "red", "red apple"],
    } | changes  # fmt: skip


def test_captions_are_the_name_twice_keywords_and_a_keyword_with_its_group():
    assert captions(row()) == ["red apple", "red apple", "apple, red, fruit", "fruit (food fruit)"]
    assert captions(row(part="unseen pair")) == ["red apple"]
    assert len(captions(row(group="Symbols"))) == 2
    assert captions(row(keywords=["Red Apple"])) == ["red apple"] * 4
    for number in range(50):
        first, second, some, loose = captions(row(thing=str(number)))
        assert first == second == "red apple"
        assert set(some.split(", ")) <= {"apple", "fruit", "red"}
        assert loose in {"red apple", "apple (food fruit)", "fruit (food fruit)", "red (food fruit)"}


def stand_in(folder: Path, lines: str) -> None:
    """An npm of a few lines, as no network is here."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!{BASH}\n{lines}\n")
    (folder / "npm").chmod(0o755)


def test_npm_downloads_what_is_not_there(registry, tmp_path, monkeypatch):
    stand_in(
        tmp_path / "bin",
        f'echo "$@" >> {tmp_path}/asked; name=${{@: -1}}; name=${{name#@}}; name=${{name//\\//-}}\n'
        f"cp {registry}/${{name%@*}}-${{name##*@}}.tgz .",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "kept").mkdir()
    shutil.copy(registry / GROUPS.tarball, tmp_path / "kept")
    fetch(tmp_path / "kept")
    assert contents(tmp_path / "kept") == contents(registry)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == [package.spec for package in PACKAGES if package != GROUPS]
    assert all("--ignore-scripts" in line for line in asked)
    assert making.make(tmp_path / "made", 16)
    assert not list((tmp_path / "made").rglob("*.tgz"))


def test_without_npm_and_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"npm is not on the path.* install Node\.js .*emoji\.json-15\.1\.0\.tgz"):
        fetch(tmp_path / "kept", [GROUPS])
    stand_in(
        tmp_path / "bin",
        "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network no host' >&2; echo 'npm error     at x.js:1' >&2; exit 1",
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        ValueError, match=r"npm pack emoji\.json@15\.1\.0 failed: code ENOTFOUND network no host; "
    ) as told:
        fetch(tmp_path / "kept", [GROUPS])
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "kept").iterdir())


def test_without_the_renderer_nothing_is_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert call(command.main, tmp_path / "made") == 2
    assert "needs resvg-py; install it with: uv sync --inexact --extra styles, or pip" in capsys.readouterr().err


def test_fault_damaged_packages_and_drawings_are_refused(registry, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(registry, damaged)
    whole = (registry / GROUPS.tarball).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no tarball", whole[:60] + bytes(40) + whole[100:]):
        (damaged / GROUPS.tarball).write_bytes(content)
        with pytest.raises(ValueError, match=r"emoji\.json-15\.1\.0\.tgz is damaged .*remove it"):
            read(damaged, GROUPS)
    write_tarball(damaged / GROUPS.tarball, {"index.js": b""})
    with pytest.raises(ValueError, match=r"emoji\.json-15\.1\.0\.tgz has no emoji\.json; remove it"):
        making.make(tmp_path / "made", 16, damaged)
    shutil.copy(registry / GROUPS.tarball, damaged)
    write_tarball(damaged / PICTURES["twemoji"].tarball, {"1f34e.svg": b"<svg"})
    with pytest.raises(ValueError, match=r"twemoji/1f34e\.png cannot be rendered: "):
        making.make(tmp_path / "made", 16, damaged)
    assert not (tmp_path / "made").exists()
