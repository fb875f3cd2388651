"""Spectral preconditioning whose numbers the config leaves to be `measured`: on the training pictures, before the first update.

They become part of the run's config, so that a resumed run and the bundle have the very same. Each rank measures for itself: it
reads the same pictures, and the numbers are rounded.
"""

from collections.abc import Iterable

from data.read.mixture import MixtureLike
from data.read.shards import read_split

from ..config import StageConfig
from ..parametrisations.spectral_config import SpectralConfig
from ..spectrum import num_images, spectrum
from .rundir import RunDir

IMAGES = 500


def resolved(config: StageConfig, data: MixtureLike, fingerprint: str, run: RunDir) -> tuple[StageConfig, list[str]]:
    """The config with its spectrum, and notes, a line each. A run that has begun keeps the spectrum that it has.

    fingerprint: of `data`. Raises ValueError, OSError.
    """
    asked = config.parametrisation
    if not isinstance(asked, SpectralConfig):
        return config, []
    known = recorded(asked, run) if not asked.is_measured else asked
    if known is None:
        known = of_shards(config, asked, data, fingerprint)
    notes = []
    if known.data and known.data != fingerprint:
        notes.append(
            f"the spectrum of parametrisation was measured on other data ({known.data[:12]}, these are {fingerprint[:12]}); "
            "training goes on with it"
        )
    return config.model_copy(update={"parametrisation": known}), notes


def recorded(asked: SpectralConfig, run: RunDir) -> SpectralConfig | None:
    """The spectrum of the run that has begun in this folder, if it has one of the same bands and colours."""
    before = run.before() if run.folders() else None
    known = before.parametrisation if before else None
    if not isinstance(known, SpectralConfig) or not known.is_measured:
        return None
    keys = ("bands", "colours", "beside")
    return known if all(getattr(known, key) == getattr(asked, key) for key in keys) else None


def of_shards(config: StageConfig, asked: SpectralConfig, data: MixtureLike, fingerprint: str) -> SpectralConfig:
    """Measure the first pictures of the train split."""
    limit = num_images(config, IMAGES)
    batches: Iterable = read_split(data, "train", batch=min(limit, 50), resolution=config.resolution, limit=limit)
    pictures = (batch.image for batch in batches)
    found = spectrum(config, pictures, bands=asked.bands, opponent=asked.colours == "opponent", data=fingerprint)
    return found.model_copy(update={"beside": asked.beside})
