"""Spectral preconditioning whose numbers the config leaves to be `measured`: on the training pictures, before the first update.

They become part of the run's config, so that a resumed run and the bundle have the very same. Each rank measures for itself: it
reads the same pictures, and the numbers are rounded.
"""

from data.read.mixture import MixtureLike

from ..config import StageConfig
from ..parametrisations.spectral_config import SpectralConfig
from ..spectrum import of_shards
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
        opponent = asked.colours == "opponent"
        found = of_shards(config, data, fingerprint, images=IMAGES, bands=asked.bands, opponent=opponent)
        known = found.model_copy(update={"beside": asked.beside})
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
