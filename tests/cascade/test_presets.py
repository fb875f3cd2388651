"""Shipped cascades load, keep the rules that their headers state, and mistakes in a cascade are refused in one line."""

import re
from functools import cache

import pytest

from cascade.config import PRESETS, load_config, parse_config
from cascade.train.costs import StageCost, cost_of
from data.captions import TEXT_TOKENS
from stages.config import BaseConfig, SuperResConfig
from stages.training.checks import micro_batch

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
REFERENCE = {"imagenet_256": (8, 16, 32), "text_1024": (32, 64, 128)}  # and the numbers of processes they should fit


@cache
def plans(name: str) -> list[StageCost]:
    return [cost_of(stage) for stage in load_config(name).stages.values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_cascade_by_its_own_name(name):
    config = load_config(name)
    assert config.name == name
    first, *others = config.stages.values()
    assert isinstance(first, BaseConfig)
    assert all(isinstance(stage, SuperResConfig) for stage in others)


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_named_by_what_they_are(name):
    for stage_name, stage in load_config(name).stages.items():
        assert stage_name == f"{'base' if isinstance(stage, BaseConfig) else 'sr'}_{stage.resolution}"


@pytest.mark.parametrize("name", REFERENCE)
def test_the_header_says_command_hardware_and_what_was_measured(name):
    header = "".join(line for line in (PRESETS / f"{name}.yaml").read_text().splitlines(True) if line.startswith("#"))
    assert "GPUs of" in header
    assert "MEASURED: NOTHING" in header
    stages = load_config(name).stages
    for used in re.findall(rf"train\.py {name} (\w+)", header):
        assert used in stages


@pytest.mark.parametrize("name", NAMES)
def test_the_header_packs_captions_as_the_stages_want_them(name):
    header = (PRESETS / f"{name}.yaml").read_text().replace("\\\n#", " ")
    packing = [line for line in header.splitlines() if line.startswith("#") and "data.pack" in line]
    texts = [stage.cond.text for stage in load_config(name).stages.values() if stage.cond.text]
    needed = len(texts) == len(load_config(name).stages)
    for line in packing if texts else []:
        if not needed and "--text-encoder" not in line:
            continue  # for the stages without text
        tokens = re.search(r"--text-tokens (\d+)", line)
        assert int(tokens[1] if tokens else TEXT_TOKENS) == texts[0].packed_tokens
        assert texts[0].encoder == re.search(r"--text-encoder (\S+)", line)[1]


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_batches_and_streams_divide_on_the_intended_clusters(name):
    for stage in load_config(name).stages.values():
        assert stage.train.streams >= 64
        for world in REFERENCE[name]:
            assert stage.train.batch % world == 0
            assert stage.train.streams % (world * stage.train.workers) == 0
            assert micro_batch(stage, world) == stage.train.micro_batch


@pytest.mark.parametrize("name", REFERENCE)
def test_capacity_is_in_the_base_and_the_top_is_local(name):
    first, *_, top = load_config(name).stages.values()
    sizes = [plan.parameters for plan in plans(name)]
    assert sizes[0] > max(sizes[1:])
    assert isinstance(top, SuperResConfig)
    assert 0 < top.crop < top.resolution
    assert not top.net.self_attention
    assert first.cond.drop > 0


def test_text_1024_has_the_sizes_of_its_model():
    sizes = [plan.parameters / 1e9 for plan in plans("text_1024")]
    assert sizes == pytest.approx([2.0, 0.6, 0.4], rel=0.06)  # Saharia et al. 2022, section 4.1


@pytest.mark.parametrize(("name", "decay"), [("imagenet_256", 35_000), ("text_1024", 70_000)])
def test_the_header_says_how_the_learning_rate_ends_beside_edm2_s(name, decay):
    """There lr / sqrt(updates / decay) of normalised weights; here a constant lr, of weights that grow as lr sqrt(updates)."""
    ratios = []
    for stage in load_config(name).stages.values():
        settings = stage.train
        assert settings.schedule == "constant"
        updates = settings.images / settings.batch
        theirs = settings.lr / (updates / decay) ** 0.5
        ratios.append(theirs / (settings.lr / (1 + settings.lr**2 * updates) ** 0.5))
    told = re.search(r"ends ([\d.]+) to ([\d.]+) times below EDM2's", (PRESETS / f"{name}.yaml").read_text())
    assert [round(min(ratios), 1), round(max(ratios), 1)] == [float(each) for each in told.groups()]


def test_no_captions_are_trained_on_mirrored_pictures():
    """They may say left and right."""
    stages = load_config("text_1024").stages.values()
    assert not any(stage.train.flip for stage in stages if stage.cond.text)


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_stages_fit_a_gpu_of_80_gb(name):
    assert max(plan.train_bytes for plan in plans(name)) < 70e9


NET = {"widths": [8, 8], "blocks": [1, 1]}
BASE = {"kind": "base", "resolution": 16, "net": NET}
SR = {"kind": "super_res", "low_res": 16, "resolution": 32, "net": NET}


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            {"sr": SR, "base": BASE},
            r"stage sr comes first and must be kind: base, got super_res; put the base stage first",
        ),
        ({"a": BASE, "b": BASE}, r"stage b is kind: base but comes after a; only the first stage is a base stage"),
        (
            {"base": BASE, "sr": SR | {"low_res": 8}},
            r"stage sr expects low_res 8 px, but base gives 16 px; put a 16 -> 8 stage between them, or change low_res",
        ),
        ({"base": BASE, "sr": SR | {"channels": 1}}, r"stage sr has 1 channels, but base gives 3"),
        ({"base": BASE, "sr": SR | {"resolution": 40}}, r"stages\.sr: resolution 40 must be a multiple of low_res 16"),
        (
            {"base": BASE | {"resolution": 15}},
            r"stages\.base: resolution 15 is no multiple of 2 = patch x 2\^\(levels - 1\)",
        ),
        ({"base": BASE | {"train": {"bach": 8}}}, r"stages\.base\.train\.bach: .*; did you mean batch\?"),
        ({"base": BASE | {"widths": [8]}}, r"stages\.base\.widths: .*; write it as stages\.base\.net\.widths"),
        ({"base": BASE | {"seed": 1}}, r"stages\.base\.seed: .*; write it as stages\.base\.train\.seed"),
        ({"base": BASE | {"train": {"kind": 1}}}, r"write it as stages\.base\.kind or stages\.base\.net\.kind"),
        ({"base": BASE | {"crop": 8}}, r"stages\.base\.crop: .*; only super_res stages have crop"),
        ({"base": BASE | {"train": {"batch": "many"}}}, r"stages\.base\.train\.batch: .*integer.*'many'"),
        ({"base": BASE | {"resolution": None}}, r"stages\.base\.resolution: .*integer.*None"),
        ({"base": BASE | {"net": NET | {"widths": 8}}}, r"stages\.base\.net\.widths: .*'8'"),
        ({"base": BASE | {"kind": "bsae"}}, r"stages\.base: .*'bsae'.*'base'"),
        ({"base": {"resolution": 16, "net": NET}}, r"stages\.base: .*kind"),
        ({}, r"stages: .*at least 1"),
    ],
    ids=[
        "super_res_first",
        "two_bases",
        "sizes_do_not_meet",
        "channels_do_not_meet",
        "no_whole_factor",
        "too_many_levels",
        "unknown_key",
        "key_of_another_place",
        "key_of_train",
        "key_of_two_places",
        "key_of_another_kind",
        "wrong_type",
        "null",
        "no_list",
        "unknown_kind",
        "no_kind",
        "no_stages",
    ],
)
def test_a_wrong_cascade_is_refused_in_one_line(stages, told):
    with pytest.raises(ValueError, match=told) as caught:
        parse_config({"name": "mine", "stages": stages}, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("cascade mine.yaml: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["stages.base_16.train.lrr=1e-3"], r"stages\.base_16\.train\.lrr: .*did you mean lr\?"),
        (["seed=1"], r"seed: .*; write it as stages\.STAGE\.train\.seed"),
        (["stages.sr_64.max_sigma=1"], r"write it as stages\.sr_64\.aug\.max_sigma"),
        (["stages.base_16.train.lr=fast"], r"stages\.base_16\.train\.lr: .*'fast'"),
        (["stages.sr_64.low_res=32"], r"stage sr_64 expects low_res 32 px, but base_16 gives 16 px"),
        (
            ["stages.sr_64.cond.text={encoder: minilm, dim: 384, tokens: 16, packed_tokens: 49}"],
            r"stage sr_64 has cond\.text\.packed_tokens 49, base_16 has 32; .* give them the same",
        ),
        (
            ["stages.base_16.cond.text.packed_tokens=8"],
            r"tokens 16 is more than packed_tokens 8; pack with --text-tokens",
        ),
        (
            ["stages.base_16.train.batch=60", "stages.base_16.train.streams=8"],
            r"batch 60 is no multiple of streams 8; set streams=6, or batch=64",
        ),
        (["train.lr"], r"override 'train\.lr': write it as dotted\.key=value"),
        (["--lr=3"], r"override '--lr=3'"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(overrides, told):
    with pytest.raises(ValueError, match=told) as caught:
        load_config("emoji", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch", "streams"), [(64, 8), (12, 6), (5, 5), (1, 1), (17, 1)])
def test_a_batch_that_says_nothing_of_streams_gets_some_that_divide_it(batch, streams):
    train = load_config("emoji", [f"stages.base_16.train.batch={batch}"]).stages["base_16"].train
    assert train.streams == streams


def test_overrides_change_one_value_and_nothing_else():
    plain, changed = load_config("emoji"), load_config("emoji", ["stages.base_16.train.lr=3e-4"])
    assert changed.stages["base_16"].train.lr == 3e-4
    assert changed.stages["sr_64"] == plain.stages["sr_64"]


@pytest.mark.parametrize(
    ("stage", "sample", "told"),
    [
        (
            "base",
            {"sampler": "ddpm", "variance": "learned"},
            "variance learned: .* without a variance; choose small or",
        ),
        ("base", {"control_scale": 0.5}, r"control_scale 0\.5: this stage has no control net; leave it out"),
        ("base", {"anneal_scale": 1.0}, r"anneal_scale 1\.0: this stage was trained without text"),
        ("base", {"original_size": [9, 9]}, r"original_size \(9, 9\): this stage was trained without it"),
        ("base", {"guidance_scale": 2.0}, r"guidance_scale 2\.0: this stage is trained without text or classes"),
        (
            "sr",
            {"guidance_text": 2.0},
            r"guidance_text 2\.0: .* not guided by a text, it is by a class \(guidance_scale\)",
        ),
        ("base", {"consistency": 1.0}, r"consistency 1\.0: this stage enlarges no picture to agree with"),
        (
            "base",
            {"sigma_end": 2.0},
            r"sigma_end 2: once upsampled it is aug_sigma 1\.63, above 1, .* that sr is trained on",
        ),
        ("base", {"aug_sigma": 0.5}, r"aug_sigma 0\.5, at most 0 is trained; choose less"),
    ],
)
def test_how_a_stage_can_never_be_sampled_is_refused_before_it_is_trained(stage, sample, told):
    stages = {"base": BASE, "sr": SR | {"cond": {"num_classes": 3}}}
    with pytest.raises(ValueError, match=rf"^cascade mine\.yaml: stage {stage} has sample\.{told}[^\n]*$"):
        parse_config({"name": "mine", "stages": stages | {stage: stages[stage] | {"sample": sample}}}, "mine.yaml")


def test_an_unknown_cascade_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"'emojis'.*did you mean emoji\?"):
        load_config("emojis")


@pytest.mark.parametrize("content", [b"stages: [", b"\xff\xfe\x00", b"a: 1\na: 2\n- b", b"just words", b""])
def test_a_file_that_is_no_cascade_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cascade .*mine\.yaml") as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)
