"""Command: write a bundle from a run directory, of any checkpoint and any half-life of its averages.

python -m stages.export runs/emoji/base_16 bundles/base_16 --nimg 120000 --half-life 12000 --half
"""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from data.cli import run
from data.line import say


def main(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a stage")],
    out: Annotated[Path, typer.Argument(help="folder of the new bundle")],
    nimg: Annotated[int, typer.Option(help="images seen; 0: as many as there are averages of")] = 0,
    half_life: Annotated[float, typer.Option(help="of the average, in images; 0: the run's first")] = 0,
    half: Annotated[bool, typer.Option("--half", help="store 16 bits a weight: half the file, to 3 digits")] = False,
) -> None:
    """Write a bundle with the averaged weights that are wanted."""
    from data.errors import first_error

    from .bundle import find_bundle, read_sidecar, save_bundle
    from .config import StageConfig
    from .training.checkpoints import read_object
    from .training.posthoc import reconstruct, stored_averages

    try:
        text = read_object(source / "config.json", "restore it")["config"]
        config = TypeAdapter(StageConfig).validate_python(text, strict=False)
    except ValidationError as error:
        raise ValueError(f"{source / 'config.json'}: {first_error(error)}; another version wrote it") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source / 'config.json'}: no config there ({error}); restore it") from None
    if out.exists() and not (out / "stage.json").exists() and any(out.iterdir()):
        raise ValueError(f"{out} is no bundle and not empty; choose another folder")
    stored = stored_averages(source)
    nimg = nimg or max((average.nimg for average in stored), default=0)
    half_life = half_life or config.train.ema[0]
    weights, profile_error = reconstruct(source, half_life, nimg, config.train.batch)
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    sidecar = read_sidecar(find_bundle(source / "bundle"))
    save_bundle(
        out,
        weights,
        config=config,
        text_encoder=sidecar.contract.text_encoder,
        provenance=sidecar.provenance.model_copy(update={"nimg": nimg, "ema": round(half_life), "scores": {}}),
    )
    say(f"{out}: {nimg:,} images, half-life {half_life:,.0f}, error of the average's profile {profile_error:.2%}")


if __name__ == "__main__":
    run(main)
