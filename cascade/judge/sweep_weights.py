"""Other weights of a stage than those of its bundle, where its run is at hand: averages of other half-lives, and none."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cascade.link import Link
from stages.ask import OWN
from stages.build import build_stage
from stages.bundle import Provenance, save_bundle
from stages.training.checkpoints import check_manifest, load_state
from stages.training.engine import weights_in
from stages.training.posthoc import reconstruct, stored_averages
from stages.training.rundir import RunDir


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a stage at the image that its bundle was written at. run: its run directory, if it is one."""

    link: Link
    run: Path
    precision: str = "fp32"

    @property
    def provenance(self) -> Provenance:
        """Of the bundle."""
        return self.link.sidecar.provenance

    def half_lives(self) -> tuple[int, ...]:
        """Half-lives other than the bundle's, in images, ascending: those stored, and half and twice as long where they can be
        reconstructed."""
        nimg = self.provenance.nimg
        stored = {each.half_life for each in stored_averages(self.run) if each.nimg == nimg}
        wanted = (
            {round(each * factor) for each in {*stored, self.provenance.ema} for factor in (0.5, 1, 2)}
            if stored
            else set()
        )
        return tuple(each for each in sorted(wanted - {0, self.provenance.ema}) if self._has(each))

    def averaged(self, half_life: int) -> Link:
        """The stage with the average of a half-life. Raises ValueError if the run's averages do not give it."""
        return self._with(self._average(half_life))

    def raw(self) -> Link | None:
        """The stage with the weights that were trained, without any average; None if no whole checkpoint has them."""
        folder = RunDir(self.run).checkpoints / f"nimg-{self.provenance.nimg:010d}"
        if check_manifest(folder):
            return None
        return self._with(weights_in(load_state(folder)))

    def save(self, half_life: int, folder: Path) -> None:
        """Write the bundle of a half-life to `folder`."""
        provenance = self.provenance.model_copy(update={"ema": half_life, "scores": {}})
        save_bundle(
            folder, self._average(half_life), config=self.link.sidecar.config,
            text_encoder=self.link.contract.text_encoder, provenance=provenance,
        )  # fmt: skip

    def _average(self, half_life: int) -> dict[str, Tensor]:
        return reconstruct(self.run, half_life, self.provenance.nimg, self.link.sidecar.config.train.batch)[0]

    def _has(self, half_life: int) -> bool:
        try:
            self._average(half_life)
        except ValueError:
            return False
        return True

    def _with(self, weights: dict[str, Tensor]) -> Link:
        stage = build_stage(self.link.sidecar.config)
        stage.load_state_dict(weights)
        stage.network.fold()
        stage.set_precision(self.precision)
        stage = stage.to(self.link.device).eval().requires_grad_(False)
        return replace(self.link, hosts={**self.link.hosts, OWN: replace(self.link.host, stage=stage)})
