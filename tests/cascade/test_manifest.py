"""cascade.json and what holds a chain together: nothing is loaded that does not fit, and each misfit is one sentence."""

import json
import shutil

import pytest
from pydantic import ValidationError

from cascade.config import parse_config
from cascade.manifest import MANIFEST, Manifest, StageEntry, check_chain, in_order, read_manifest, write_manifest
from cascade.pipeline import Cascade
from cascade.request import Request
from stages.bundle import Contract, make_contract
from stages.config import SampleConfig, TextConfig

from .chains import finished, tiny_config, write_bundle, write_cascade


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the bundles of base_8 -> sr_16 -> sr_32; not to be changed."""
    return write_cascade(tmp_path_factory.mktemp("trained"), tiny_config(8, 16, 32))


@pytest.fixture
def folder(trained, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(trained, tmp_path / "cascade")


def chain(*sizes: int, **changes) -> dict[str, Contract]:
    """Contracts of a chain that fits, one of them changed: sr_16={"channels": 1}."""
    stages = tiny_config(*sizes, text=TextConfig(encoder="enc", dim=4, tokens=6)).stages
    contracts = {name: make_contract(config, "enc-1") for name, config in stages.items()}
    return {name: contract.model_copy(update=changes.get(name, {})) for name, contract in contracts.items()}


# contracts


def test_a_chain_that_fits():
    check_chain(chain(8, 16, 32))
    check_chain(chain(8, 16, 32, base_8={"text_encoder": None}, sr_32={"text_encoder": None}))
    check_chain({name: contract for name, contract in chain(8, 16, 32).items() if name != "base_8"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sr_32": {"low_res": 24}},
            "stage sr_32 expects low_res 24 px, but sr_16 gives 16 px; put a 16 -> 24 stage between them",
        ),
        (
            {"sr_32": {"low_res": None}},
            f"stage sr_32 is a base stage but comes after sr_16; put the base stage first in {MANIFEST}",
        ),
        (
            {"sr_16": {"text_encoder": "enc-2"}},
            "stage sr_16 was trained with text encoder enc-2, stage base_8 with enc-1; pack the shards of both",
        ),
        (
            {"sr_16": {"text_encoder": None}, "sr_32": {"text_encoder": "enc-2"}},
            "stage sr_32 was trained with text encoder enc-2, stage base_8 with enc-1",
        ),
        (
            {"sr_32": {"text_tokens": 49}},
            "stage sr_32 was trained with captions cut to 49 tokens, stage sr_16 with 32; pack the shards of both",
        ),
        (
            {"sr_16": {"resize": "lanczos-0"}},
            "stage sr_16 was trained with resize lanczos-0, this version has bicubic-antialias-1; train it again",
        ),
        (
            {"sr_16": {"channels": 1}},
            "stage sr_16 takes 1 channels in (-1.0, 1.0), but base_8 gives 3 in (-1.0, 1.0); train them on",
        ),
        (
            {"sr_32": {"value_range": (0.0, 1.0)}},
            "stage sr_32 takes 3 channels in (0.0, 1.0), but sr_16 gives 3 in (-1.0, 1.0)",
        ),
        (
            {"base_8": {"num_classes": 10}, "sr_32": {"num_classes": 12}},
            "stage sr_32 knows 12 classes, but base_8 10; train them on the same classes",
        ),
    ],
)
def test_stages_that_do_not_chain_are_refused(changes, message):
    with pytest.raises(ValueError, match=r"^stage [^\n]*$") as error:
        check_chain(chain(8, 16, 32, **changes))
    assert message in str(error.value)


def test_what_a_stage_gives_the_next_one_takes():
    base, first, second = chain(8, 16, 32).values()
    assert (base.takes, base.gives, first.gives) == (None, first.takes, second.takes)
    assert second.gives.size == (32, 32)
    assert base.gives != chain(8, 16, sr_16={"channels": 1})["sr_16"].takes
    assert not {"gives", "takes"} & base.model_dump().keys()  # nothing more is on the disk


def test_the_order_is_that_of_takes_and_gives():
    """Whatever they are called; what gives less may come later, where what it takes says so."""
    fitting = chain(8, 16, 32)
    assert in_order(dict(reversed(fitting.items()))) == ["base_8", "sr_16", "sr_32"]
    down = fitting["base_8"].model_copy(update={"low_res": 32, "resolution": 4})
    assert in_order({"a": fitting["sr_32"], "b": down, "c": fitting["sr_16"]}) == ["c", "a", "b"]
    turning = {"b": down.model_copy(update={"resolution": 16}), "a": fitting["sr_32"]}
    assert in_order(turning) == ["a", "b"]  # a ring: by what they take
    gap = chain(8, 16, 32, 64)
    assert in_order({name: gap[name] for name in ("sr_64", "sr_16", "base_8")}) == ["base_8", "sr_16", "sr_64"]
    two = {"z": gap["base_8"], "y": gap["base_8"], "x": gap["sr_16"]}
    assert in_order(two) == ["y", "z", "x"]


def test_stages_in_the_wrong_order(folder):
    manifest = read_manifest(folder)
    backwards = manifest.model_copy(update={"stages": dict(reversed(manifest.stages.items()))})
    (folder / MANIFEST).write_text(backwards.model_dump_json())
    with pytest.raises(ValueError, match="stage sr_16 expects low_res 8 px, but sr_32 gives 32 px"):
        Cascade.load(folder)


# the file


def test_what_is_written_is_read(tmp_path):
    config = tiny_config(8, 16, num_steps=5)
    write_manifest(config, tmp_path / "new" / "folder")
    manifest = read_manifest(tmp_path / "new" / "folder")
    assert list(manifest.stages) == ["base_8", "sr_16"]
    assert manifest.stages["sr_16"] == StageEntry(bundle="sr_16/bundle", sample=config.stages["sr_16"].sample)
    before = (tmp_path / "new" / "folder" / MANIFEST).read_bytes()
    write_manifest(config, tmp_path / "new" / "folder")  # the run of another stage
    assert (tmp_path / "new" / "folder" / MANIFEST).read_bytes() == before
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [MANIFEST]


def test_the_folder_of_another_cascade_is_left_alone(tmp_path):
    write_manifest(tiny_config(8, 16), tmp_path)
    with pytest.raises(ValueError, match=r"holds cascade 'tiny', not 'other'; choose another --out"):
        write_manifest(tiny_config(8, 16, name="other"), tmp_path)
    assert read_manifest(tmp_path).name == "tiny"


@pytest.mark.parametrize(
    "bundle",
    ["", ".", "..", "../x", "/etc", "a/../../x", "a/..", "a//b", "a/", ".ssh/x", "a/.b", "a\\..\\b", "a\0b", "a\nb"],
)
def test_a_bundle_never_lies_outside_the_folder(folder, bundle):
    values = json.loads((folder / MANIFEST).read_text())
    values["stages"]["base_8"]["bundle"] = bundle
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"cascade.json: stages.base_8.bundle: String should match pattern"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a b", "a.b", "a=b", "\x1b[2J", "-x"])
def test_names_of_stages_are_plain(name):
    """They become parts of paths, of dotted overrides and of options, and are printed."""
    entry = StageEntry(bundle="a", sample=SampleConfig())
    with pytest.raises(ValidationError, match="String should match pattern"):
        Manifest(name="x", stages={name: entry})
    values = tiny_config().model_dump()
    values["stages"] = {name: values["stages"]["base_8"]}
    with pytest.raises(ValidationError, match="String should match pattern"):
        type(tiny_config()).model_validate(values)


@pytest.mark.parametrize("name", ["uncertainty", "Uncertainty"])
def test_a_stage_is_not_called_as_the_map_beside_its_picture(name, folder):
    """OUT.uncertainty.png would be both: the picture of a stage below and how unsure the last one is."""
    told = rf"stages\.{name}\.\[key\]: a stage cannot be called {name}, choose another name: .* --uncertainty"
    values = tiny_config(8).model_dump()
    values["stages"] = {name: values["stages"]["base_8"]}
    with pytest.raises(ValueError, match=rf"^cascade mine\.yaml: {told}"):
        parse_config(values, "mine.yaml")
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"base_8": {', f'"{name}": {{'))
    with pytest.raises(ValueError, match=told):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    (folder / "base_8").rename(folder / name)
    with pytest.raises(ValueError, match=rf"{told}; rename that folder"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[]", "Input should be a valid dictionary"),
        (b'{"name": "x", "stages": {}}', "stages: Dictionary should have at least 1 item"),
        (b'{"name": "x", "stages": {"a": {}}}', "stages.a.bundle: Field required"),
        (b'{"version": 2, "name": "x", "stages": {}}', "version: Input should be 1"),
        (b'{"name": "x", "stages": {"a": {"bundle": "a", "sample": {"steps": 3}}}}', "steps: Extra inputs"),
        (b'{"name": "x", "stages": {"a": {"bundle": "a", "sample": {}}}, "run": "rm"}', "run: Extra inputs"),
    ],
)
def test_a_damaged_manifest(tmp_path, content, message):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*cascade.json: [^\n]*$") as error:
        read_manifest(tmp_path)
    assert message in str(error.value)
    assert len(str(error.value)) < 500


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder; train one with: python train.py"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither cascade.json nor STAGE/bundle in it; name the --out of train.py"):
        read_manifest(tmp_path)


# discovery, gaps, parts


def test_bundles_speak_where_there_is_no_manifest(folder):
    expected = finished(Cascade.load(folder).sample(Request(num=2)))
    (folder / MANIFEST).unlink()
    manifest = read_manifest(folder)
    assert list(manifest.stages) == ["base_8", "sr_16", "sr_32"]
    assert manifest.stages["sr_16"].sample == tiny_config(8, 16).stages["sr_16"].sample
    assert finished(Cascade.load(folder).sample(Request(num=2))).equal(expected)


def test_a_bundle_caught_between_two_renames_is_found(folder):
    (folder / "sr_16" / "bundle").rename(folder / "sr_16" / "bundle.old")
    Cascade.load(folder)
    (folder / MANIFEST).unlink()
    assert list(read_manifest(folder).stages) == ["base_8", "sr_16", "sr_32"]


def test_a_stage_that_is_not_trained_yet(folder):
    shutil.rmtree(folder / "sr_32")
    with pytest.raises(ValueError, match="stage sr_32 has no bundle yet; sample up to sr_16 with --until sr_16"):
        Cascade.load(folder)
    assert [link.name for link in Cascade.load(folder, last="sr_16").links] == ["base_8", "sr_16"]
    shutil.rmtree(folder / "base_8")
    with pytest.raises(ValueError, match="stage base_8 has no bundle yet; train it first"):
        Cascade.load(folder)


def test_a_part_of_the_chain(trained):
    assert [link.name for link in Cascade.load(trained, first="sr_16").links] == ["sr_16", "sr_32"]
    assert [link.name for link in Cascade.load(trained, first="sr_16", last="sr_16").links] == ["sr_16"]
    with pytest.raises(ValueError, match=r"no stage .sr_61., it has base_8, sr_16, sr_32; did you mean sr_16\?"):
        Cascade.load(trained, first="sr_61")
    with pytest.raises(ValueError, match="stage sr_32 comes after sr_16; exchange them"):
        Cascade.load(trained, first="sr_32", last="sr_16")


def test_a_bundle_of_another_stage_in_its_place(folder):
    shutil.rmtree(folder / "sr_16")
    write_bundle(folder / "sr_16" / "bundle", tiny_config(4, 16).stages["sr_16"])
    with pytest.raises(ValueError, match="stage sr_16 expects low_res 4 px, but base_8 gives 8 px"):
        Cascade.load(folder)


def test_damaged_weights_are_refused(folder):
    weights = folder / "sr_16" / "bundle" / "ema.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"sr_16/bundle/ema.safetensors: its sha256 is not the one in stage.json"):
        Cascade.load(folder)


def test_settings_of_the_manifest_beyond_what_was_trained(folder):
    values = json.loads((folder / MANIFEST).read_text())
    values["stages"]["sr_16"]["sample"]["aug_sigma"] = 1.5
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"stage sr_16: aug_sigma 1.5 is above 1.0, the largest it was trained on"):
        Cascade.load(folder)
