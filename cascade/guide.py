"""Command: give a stage of a cascade the weaker network that autoguidance leads away from, or take it away.

python -m cascade.guide runs/emoji base_16 --nimg 20000              an early snapshot of the stage's own run
python -m cascade.guide runs/emoji base_16 --bundle runs/small/base_16/bundle
python -m cascade.guide runs/emoji base_16 --none

The guide is copied to FOLDER/STAGE/guide and named in the manifest. It is asked where the stage's `autoguidance_scale` is not 1.
"""

from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.line import say


def main(
    folder: Annotated[Path, typer.Argument(help="the cascade: the --out of train.py")],
    stage: Annotated[str, typer.Argument(help="name of a stage")],
    bundle: Annotated[Path | None, typer.Option(help="the guide: any bundle of the same kind of picture")] = None,
    nimg: Annotated[int, typer.Option(help="instead: the stage's own run after so many images")] = 0,
    half_life: Annotated[float, typer.Option(help="of that snapshot's average, in images; 0: the run's first")] = 0,
    none: Annotated[bool, typer.Option("--none", help="take the guide away")] = False,
) -> None:
    """Set or remove the guide of a stage."""
    from safetensors.torch import load_file

    from data.errors import nearest
    from stages import export
    from stages.bundle import WEIGHTS, find_bundle, load_bundle, read_sidecar, save_bundle

    from .manifest import MANIFEST, check_guide, read_manifest, write_swept

    if (bundle is not None) + (nimg > 0) + none != 1:
        raise ValueError("name one of --bundle BUNDLE, --nimg IMAGES and --none")
    if half_life and not nimg:
        raise ValueError(
            f"--half-life {half_life:g}: it is of the average that --nimg takes; leave it out, or give --nimg"
        )
    entries = read_manifest(folder).stages
    if stage not in entries:
        raise ValueError(
            f"cascade {folder}: no stage {stage!r}, it has {', '.join(entries)}{nearest(stage, list(entries))}"
        )
    scale = entries[stage].sample.autoguidance_scale
    if none and scale != 1:
        raise ValueError(
            f"--none: stage {stage} has autoguidance_scale {scale:g} in {folder / MANIFEST} and could not be loaded without a "
            "guide; set it to 1 there first"
        )
    own, place = read_sidecar(find_bundle(folder / entries[stage].bundle)), f"{stage}/guide"
    if bundle is not None:
        sidecar = read_sidecar(find_bundle(bundle))
        check_guide(stage, own, sidecar, str(bundle))
        load_bundle(bundle)  # damaged weights are found now
        save_bundle(
            folder / place,
            load_file(find_bundle(bundle) / WEIGHTS),
            config=sidecar.config,
            text_encoder=sidecar.contract.text_encoder,
            provenance=sidecar.provenance,
        )
    elif nimg:
        export.main(folder / stage, folder / place, nimg=nimg, half_life=half_life)
    guide = None if none else place
    write_swept(folder, {stage: entries[stage].model_copy(update={"guide": guide})})
    say(
        f"{folder}: stage {stage} has {'no guide' if none else f'the guide {place}'}; its autoguidance_scale is {scale}"
    )


if __name__ == "__main__":
    run(main)
