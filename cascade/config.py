"""One YAML describes a whole cascade: stages as a mapping by name, in chain order; the names are the handles everywhere."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from stages.bundle import first_error
from stages.config import BaseConfig, StageConfig, Strict, SuperResConfig

PRESETS = Path(__file__).parent / "presets"

# part of paths, of dotted overrides and of options
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]


class CascadeConfig(Strict):
    """A chain of stages: one base, then super-resolution stages each of which takes what the one before gives."""

    name: str
    stages: dict[StageName, StageConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _chain(self) -> Self:
        names = list(self.stages)
        for before, name in zip([None, *names], names, strict=False):
            stage = self.stages[name]
            if before is None:
                if not isinstance(stage, BaseConfig):
                    raise ValueError(
                        f"stage {name} comes first and must be kind: base, got {stage.kind}; put the base stage first"
                    )
                continue
            given = self.stages[before]
            if not isinstance(stage, SuperResConfig):
                raise ValueError(
                    f"stage {name} is kind: base but comes after {before}; only the first stage is a base stage"
                )
            if stage.low_res != given.resolution:
                raise ValueError(
                    f"stage {name} expects low_res {stage.low_res} px, but {before} gives {given.resolution} px; "
                    f"put a {given.resolution} -> {stage.low_res} stage between them, or change low_res"
                )
            if stage.channels != given.channels:
                raise ValueError(f"stage {name} has {stage.channels} channels, but {before} gives {given.channels}")
        return self


def load_config(name: str, overrides: list[str] | None = None) -> CascadeConfig:
    """The cascade of a shipped name or a YAML file, with dotted overrides (`stages.base_16.train.lr=3e-4`). Raises ValueError."""
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
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cascade {path}: override {' '.join(overrides)} does not fit ({told}); write lists whole: ...widths=[64,128]"
        ) from None
    return parse_config(values, str(path))


def check_stage(override: str, config: CascadeConfig) -> None:
    """An override of a stage that does not exist would be a new stage, and the complaint about it no help."""
    parts = override.partition("=")[0].split(".")
    if len(parts) > 1 and parts[0] == "stages":
        stage_of(config, parts[1])


def parse_config(values: Any, where: str) -> CascadeConfig:
    """Checked values; an unknown key is refused with the nearest allowed name."""
    try:
        return TypeAdapter(CascadeConfig).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"cascade {where}: {first_error(error)}{hint(error)}") from None


def config_path(name: str) -> Path:
    """A shipped name or a path. Raises ValueError with the nearest shipped name."""
    shipped = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    raise ValueError(f"cascade {name!r}: no such file and not one of {', '.join(shipped)}{nearest(name, shipped)}")


def stage_of(config: CascadeConfig, name: str) -> StageConfig:
    """The stage called `name`. Raises ValueError with the nearest name."""
    if name not in config.stages:
        raise ValueError(
            f"cascade {config.name}: no stage {name!r}, it has {', '.join(config.stages)}{nearest(name, config.stages)}"
        )
    return config.stages[name]


def nearest(name: str, allowed) -> str:
    """ "; did you mean ...?", or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def hint(error: ValidationError) -> str:
    """The nearest allowed key for an unknown one."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return ""
    names = {field for model in config_models(CascadeConfig) for field in model.model_fields}
    return nearest(str(first["loc"][-1]), names)


def config_models(model: type) -> set[Any]:
    """All config classes of the project."""
    import stages.config as config

    return {CascadeConfig} | {v for v in vars(config).values() if isinstance(v, type) and issubclass(v, Strict)}
