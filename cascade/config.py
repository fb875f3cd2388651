"""The config of a whole cascade, in one YAML: stages by name, in the order of the chain. Every command uses these names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from data.errors import first_error, nearest, untagged
from stages.config import KINDS, StageConfig
from stages.strict import Strict
from stages.unfit import idle, impossible

PRESETS = Path(__file__).parent / "presets"

UNCERTAINTY = "uncertainty"  # in the names of files, where those of stages stand, too


def not_reserved(name: str) -> str:
    """The name of a stage. Raises ValueError for that of maps beside its pictures; case does not count, as on some disks."""
    if name.lower() == UNCERTAINTY:
        raise ValueError(
            f"a stage cannot be called {name}, choose another name: PICTURE.{UNCERTAINTY}.png is the map of sample.py --uncertainty"
        )
    return name


# used in paths, dotted overrides and options
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"), AfterValidator(not_reserved)]


class CascadeConfig(Strict):
    """A chain of stages: one base stage, then super-resolution stages, each taking the output of the one before."""

    name: str
    stages: dict[StageName, StageConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _chain(self) -> Self:
        names = list(self.stages)
        for before, name in zip([None, *names], names, strict=False):
            stage = self.stages[name]
            if before is None:
                if stage.takes:
                    raise ValueError(
                        f"stage {name} comes first and must be kind: base, got {stage.kind}; put the base stage first"
                    )
                continue
            below = self.stages[before]
            if not stage.takes:
                raise ValueError(
                    f"stage {name} is kind: base but comes after {before}; only the first stage is a base stage"
                )
            if stage.space.handed != below.space.handed:
                raise ValueError(
                    f"stage {name} takes {stage.space.handed}, but {before} gives {below.space.handed}; "
                    "give them spaces of which what is stored is the same"
                )
            if stage.takes != below.gives:
                raise ValueError(
                    f"stage {name} expects low_res {stage.takes[0]} px, but {before} gives {below.resolution} px; "
                    f"put a {below.resolution} -> {stage.takes[0]} stage between them, or change low_res"
                )
            if below.sample.sigma_end:
                check_handed(before, below.sample.sigma_end, name, stage)
            if stage.channels != below.channels:
                raise ValueError(f"stage {name} has {stage.channels} channels, but {before} gives {below.channels}")
        for name, stage in self.stages.items():
            if stage.sample.aug_sigma > stage.max_aug_sigma:
                raise ValueError(
                    f"stage {name} has sample.aug_sigma {stage.sample.aug_sigma:g}, at most {stage.max_aug_sigma:g} is trained; "
                    "choose less"
                )
            for key, reason in (*impossible(stage, stage.sample), *idle(stage, stage.sample)):
                raise ValueError(f"stage {name} has sample.{key} {getattr(stage.sample, key)}: {reason}")
        if sigma_end := self.stages[names[-1]].sample.sigma_end:
            raise ValueError(
                f"stage {names[-1]} is the last one and has sample.sigma_end {sigma_end:g}: its pictures would stay unfinished; "
                "set it to 0"
            )
        texts = {name: stage.cond.text for name, stage in self.stages.items() if stage.cond.text}
        for name, text in texts.items():
            first = next(iter(texts))
            if text.packed_tokens != texts[first].packed_tokens:
                raise ValueError(
                    f"stage {name} has cond.text.packed_tokens {text.packed_tokens}, {first} has {texts[first].packed_tokens}; "
                    "a prompt is encoded once for all stages, give them the same"
                )
        return self


def check_handed(name: str, sigma_end: float, after: str, stage: StageConfig) -> None:
    """Raise ValueError if a stage stops at a level whose noise, once upsampled, the stage after it is not trained on."""
    from stages.handover import UPSAMPLED

    if UPSAMPLED * sigma_end > stage.max_aug_sigma:
        raise ValueError(
            f"stage {name} has sample.sigma_end {sigma_end:g}: once upsampled it is aug_sigma {UPSAMPLED * sigma_end:.3g}, above "
            f"{stage.max_aug_sigma:g}, the largest that {after} is trained on; stop at a lower level"
        )


def load_config(name: str, overrides: list[str] | None = None) -> CascadeConfig:
    """Load a shipped cascade by name, or a YAML file, with dotted overrides (`stages.base_16.train.lr=3e-4`). Raises ValueError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = config_path(name)
    for override in overrides or []:
        if not override.partition("=")[0].strip("-. ") or "=" not in override or override.startswith("-"):
            raise ValueError(
                f"override {override!r}: write it as dotted.key=value, for instance stages.base_16.train.lr=3e-4"
            )
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"cascade {path}: not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    config = parse_config(values, str(path))
    if not overrides:
        return config
    for override in overrides:
        check_stage(override, config)
    try:
        merged = OmegaConf.merge(values, OmegaConf.from_dotlist(overrides))
        values = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, YAMLError, TypeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cascade {path}: override {' '.join(overrides)} does not fit ({detail}); write lists whole: ...widths=[64,128]"
        ) from None
    return parse_config(values, str(path))


def check_stage(override: str, config: CascadeConfig) -> None:
    """Raise ValueError if an override names an unknown stage, which would otherwise be merged as a new, incomplete stage."""
    parts = override.partition("=")[0].split(".")
    if len(parts) > 1 and parts[0] == "stages":
        stage_of(config, parts[1])


def parse_config(values: Any, where: str) -> CascadeConfig:
    """Validate a config. Raises ValueError; for an unknown key the message names the nearest allowed one."""
    try:
        return TypeAdapter(CascadeConfig).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"cascade {where}: {first_error(error)}{hint(error)}") from None


def config_path(name: str) -> Path:
    """The path of a shipped cascade's YAML, or of the user's own. Raises ValueError, which names the nearest shipped name."""
    shipped = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    raise ValueError(f"cascade {name!r}: no such file and not one of {', '.join(shipped)}{nearest(name, shipped)}")


def stage_of(config: CascadeConfig, name: str) -> StageConfig:
    """The config of stage `name`. Raises ValueError, which names the nearest stage."""
    if name not in config.stages:
        raise ValueError(
            f"cascade {config.name}: no stage {name!r}, it has {', '.join(config.stages)}{nearest(name, config.stages)}"
        )
    return config.stages[name]


def hint(error: ValidationError) -> str:
    """End of an error message about an unknown key: where the key belongs, else the nearest known key."""
    loc = next((detail["loc"] for detail in error.errors() if detail["type"] == "extra_forbidden"), None)
    if loc is None:
        return ""
    key, in_stage = str(loc[-1]), len(loc) > 2 and loc[0] == "stages"
    stage = f"stages.{loc[1]}" if in_stage else "stages.STAGE"
    models = [KINDS[str(loc[2])]] if in_stage else list(KINDS.values())  # pydantic's path: "stages", name, kind, ...
    paths = {f"{stage}.{path}" for model in models for name, path in keys_of(model) if name == key}
    if ".".join(map(str, untagged(loc))) in paths:  # the key exists there under another value of `kind`
        return f"; kind: {loc[-2]} has no {key}; leave it out, in the YAML where an override changes the kind"
    if paths:
        return f"; write it as {' or '.join(sorted(paths))}"
    kinds = [kind for kind, model in KINDS.items() if key in dict(keys_of(model))]
    if kinds:
        return f"; only {' and '.join(kinds)} stages have {key}"
    return nearest(
        key, {name for model in KINDS.values() for name, _ in keys_of(model)} | set(CascadeConfig.model_fields)
    )


def keys_of(model: type[Strict], place: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a config class and of the configs nested in it, with its dotted path. place: prefix of the paths."""
    for name, field in model.model_fields.items():
        yield name, place + name
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type) and issubclass(annotation, Strict):
                yield from keys_of(annotation, f"{place}{name}.")
