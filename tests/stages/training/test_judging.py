"""What a run is judged by: validation, pictures sampled again, grids, the loss by noise level. With ideal denoisers wherever it can
be, so that what must come out is known."""

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.functional import pil_to_tensor

from data.batch import Batch, Cond, to_float, to_uint8
from data.errors import RunError
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.resize import downsample
from data.shapes import write_folder
from stages.build import build_stage
from stages.bundle import load_bundle
from stages.config import AugConfig, BaseConfig, CondConfig, NoiseConfig, SampleConfig, SuperResConfig
from stages.objectives.denoising import DENOISING
from stages.stage import Losses
from stages.training import validate
from stages.training.engine import LocalEngine, Update
from stages.training.grid import sample_grid
from stages.training.loop import crossed, train
from stages.training.quartiles import SigmaQuartiles
from stages.training.rundir import RunDir
from stages.training.skips import Skips
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake
from tests.worlds import TINY_NET, FiniteStage, finite_stage

SAMPLE = SampleConfig(num_steps=12, sigma_max=10, sigma_min=0.01)
PAD = 2  # between the pictures of a grid


def world(kind: str, *, aug_sigma: float = 0.0, classes: int = 0) -> tuple[FiniteStage, Batch]:
    """An ideal stage of 4 px over eight pictures, and a batch of them all. classes: picture k is of class k % classes."""
    images = torch.randint(0, 256, (8, 3, 4, 4), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    settings = SAMPLE.model_copy(update={"aug_sigma": aug_sigma})
    labels = torch.arange(8) % classes if classes else None
    cond = CondConfig(num_classes=classes)
    config = {
        "base": BaseConfig(resolution=4, net=TINY_NET, sample=settings, cond=cond),
        "super_res": SuperResConfig(
            resolution=4, low_res=2, net=TINY_NET, sample=settings, aug=AugConfig(max_sigma=100.0)
        ),
    }[kind]
    known = Cond.empty(8).given(label=labels) if classes else Cond.empty(8)
    batch = Batch(image=images, cond=known, index=torch.arange(8), keys=tuple("abcdefgh"))
    return finite_stage(config, to_float(images), labels), batch


class TestResampled:
    """The stage below noises a held-out picture to TRUNCATED and samples from there."""

    def which(self, stage: FiniteStage, batch: Batch) -> list[int]:
        found, error = stage.world.nearest(validate.resampled(stage, batch))
        assert error.max() < 0.05  # an ideal stage paints pictures of its set and nothing else
        return found.tolist()

    def test_little_noise_gives_the_picture_itself_much_another_one(self, monkeypatch):
        stage, batch = world("base")
        monkeypatch.setattr(validate, "TRUNCATED", 0.2)
        assert self.which(stage, batch) == list(range(8))
        monkeypatch.setattr(validate, "TRUNCATED", 30.0)
        assert sum(k == found for k, found in enumerate(self.which(stage, batch))) < 5

    def test_the_level_of_validation_keeps_most(self):
        stage, batch = world("base")
        assert sum(k == found for k, found in enumerate(self.which(stage, batch))) >= 6
        assert max(call.sigma.max() for call in stage.asked) == validate.TRUNCATED == 1.0

    def test_a_stage_below_with_a_condition_is_given_it(self, monkeypatch):
        """However much noise, its own low_res says which picture it is; augmented beyond recognition it no longer does."""
        monkeypatch.setattr(validate, "TRUNCATED", 30.0)
        stage, batch = world("super_res")
        assert self.which(stage, batch) == list(range(8))
        blind, _ = world("super_res", aug_sigma=100.0)
        assert sum(k == found for k, found in enumerate(self.which(blind, batch))) < 5

    def test_a_stage_below_is_told_the_class(self, monkeypatch):
        monkeypatch.setattr(validate, "TRUNCATED", 30.0)
        stage, batch = world("base", classes=4)
        found = self.which(stage, batch)
        assert [k % 4 for k in found] == [k % 4 for k in range(8)]
        assert found != list(range(8))

    def test_the_same_every_time_and_for_each_picture_its_own_noise(self):
        stage, batch = world("base")
        found = validate.resampled(stage, batch)
        assert torch.equal(found, validate.resampled(stage, batch))
        assert_close(validate.resampled(stage, batch[3:5]), found[3:5])
        noise = stage.asked[0].x - to_float(batch.image)
        assert noise.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.7


def test_validation_draws_what_no_training_does(runtime, tmp_path):
    """The same levels and noise every time, of a seed that belongs to it; on held-out pictures."""
    source = write_folder(tmp_path / "pictures", 60, 16)
    pack(source, tmp_path / "shards", PackSettings(size=16, shards=4, val=0.3), workers=0)
    config = base_config()
    torch.manual_seed(0)
    stage = wake(build_stage(config)).eval()
    validation = validate.make_validation(config, tmp_path / "shards", runtime.device, None)
    (batch,) = validation.batches
    trained = {key for part in validate.held_out(config, tmp_path / "shards", 99, "train") for key in part.keys}
    assert len(trained) + len(batch) == 60
    assert not trained & set(batch.keys)
    with torch.no_grad():
        by_seed = [stage(batch, seed).loss.item() for seed in (validate.SEED, config.train.seed)]
    assert validation.losses(stage)["val_loss"] == pytest.approx(by_seed[0], rel=1e-5)
    assert by_seed[0] != pytest.approx(by_seed[1], rel=1e-3)


def test_what_judges_keeps_nothing_for_a_backward_pass(runtime, tmp_path):
    """Validation, with what the stage below paints, and a grid take the memory of a forward pass, not that of an update."""
    pack(
        write_folder(tmp_path / "pictures", 30, 16),
        tmp_path / "shards",
        PackSettings(size=16, shards=4, val=0.3),
        workers=0,
    )
    base, sr = base_config(), sr_config()
    batches = list(validate.held_out(sr, tmp_path / "shards", 8))
    below, stage = wake(build_stage(base)).eval(), wake(build_stage(sr)).eval()
    recording = []
    for each in (below.net, stage.net):
        each.register_forward_hook(lambda *_: recording.append(torch.is_grad_enabled()))
    low_res = validate.all_resampled(below, batches, stage.space)
    assert validate.Validation(batches, low_res).losses(stage).keys() == {"val_loss", "val_loss_generated"}
    sample_grid(stage, batches[0])
    assert len(recording) >= 4
    assert not any(recording)


@pytest.mark.parametrize("crop", [0, 8], ids=["whole", "crop"])
def test_a_given_low_res_is_flipped_and_cropped_with_its_truth(crop):
    """The picture's own low_res, given, is what the stage makes itself of the picture."""
    torch.manual_seed(0)
    stage = wake(build_stage(sr_config(crop=crop)))
    batch = shapes_batch(16, 16)
    with torch.no_grad():
        own = stage(batch, 0).per_image
        given = stage(batch, 0, below=downsample(to_float(batch.image), (8, 8))).per_image
        other = stage(batch, 0, below=torch.zeros(16, 3, 8, 8)).per_image
    assert_close(given, own, rtol=1e-4, atol=1e-5)
    assert (other - own).abs().median() > 1e-3


class TestQuartiles:
    NOISE = NoiseConfig(mean=-0.5, std=1.5)

    @pytest.fixture
    def engine(self) -> LocalEngine:
        config = base_config().model_copy(update={"noise": self.NOISE})
        return LocalEngine(build_stage(config), config.train, torch.device("cpu"))

    def quartiles(self, engine) -> SigmaQuartiles:
        return SigmaQuartiles(engine.stage, DENOISING)

    def update(self, sigma: Tensor, per_image: Tensor, *, applied: bool = True) -> Update:
        parts = zip(sigma.split(8), per_image.split(8), strict=True)
        losses = tuple(Losses(loss=loss.mean(), per_image=loss, sigma=level) for level, loss in parts)
        return Update(loss=1.0, grad_norm=1.0, losses=losses, applied=applied)

    def test_the_first_is_the_lowest_noise(self, engine):
        """A loss that is the level's rank among 4,000 training levels has the means 1/8, 3/8, 5/8, 7/8."""
        sigma = (-0.5 + 1.5 * torch.randn(4000, generator=torch.Generator().manual_seed(0))).exp()
        quartiles = self.quartiles(engine)
        quartiles.add(self.update(sigma, sigma.argsort().argsort() / 4000))
        found = quartiles.take(engine)
        assert found == pytest.approx(
            {"loss_q1": 1 / 8, "loss_q2": 3 / 8, "loss_q3": 5 / 8, "loss_q4": 7 / 8}, abs=0.02
        )

    def test_each_line_has_its_own_images_and_skipped_ones_never(self, engine):
        quartiles, low, high = self.quartiles(engine), torch.full((8,), 1e-3), torch.full((8,), 1e3)
        quartiles.add(self.update(low, torch.full((8,), 3.0)))
        quartiles.add(self.update(low, torch.full((8,), 5.0)))
        quartiles.add(self.update(high, torch.full((8,), float("nan")), applied=False))
        assert quartiles.take(engine) == {"loss_q1": 4.0}
        quartiles.add(self.update(high, torch.full((8,), 7.0)))
        assert quartiles.take(engine) == {"loss_q4": 7.0}


def test_what_is_due_every_so_many_images_is_due_when_an_update_passes_them():
    """Whatever the batch: 8 to 16 passes 12; 0 is never."""
    assert [crossed(8, 16)(every) for every in (4, 8, 12, 16, 20, 0)] == [True, True, True, True, False, False]


def test_only_skips_in_a_row_end_a_run(tmp_path):
    skips, batch = Skips("base_8", most=1), shapes_batch(2, 8)
    losses = (Losses(loss=torch.tensor(1.0), per_image=torch.tensor([1.0, torch.nan]), sigma=torch.tensor([0.5, 2.0])),)
    applied, skipped = (Update(loss=1.0, grad_norm=1.0, losses=losses, applied=each) for each in (True, False))
    for update in (skipped, applied, skipped, applied, skipped):
        skips.check(update, batch, 8, RunDir(tmp_path).latest)
    with pytest.raises(RunError, match=r"the 2\. update in a row that was skipped \(samples 000001 at sigma 2\)"):
        skips.check(skipped, batch, 8, RunDir(tmp_path).latest)


class TestGrid:
    def pictures(self, grid: Tensor) -> Tensor:
        """(rows, columns, 3, 4, 4) of a grid of 4 px pictures."""
        rows, cols = ((side - PAD) // (4 + PAD) for side in grid.shape[1:])
        tiles = grid[:, PAD:, PAD:].unfold(1, 4, 4 + PAD).unfold(2, 4, 4 + PAD)
        assert tiles.shape[1:3] == (rows, cols)
        return tiles.permute(1, 2, 0, 3, 4)

    def test_a_base_stage_shows_samples_over_truth(self):
        stage, batch = world("base")
        found = self.pictures(sample_grid(stage, batch))
        assert found.shape[:2] == (2, 8)
        assert torch.equal(found[1], batch.image)
        for sample in found[0]:
            assert (sample.int() - batch.image.int()).abs().flatten(1).amax(1).min() <= 3
        assert len({sample.numpy().tobytes() for sample in found[0]}) > 2
        assert torch.equal(sample_grid(stage, batch), sample_grid(stage, batch))

    def test_super_resolution_shows_low_res_sample_and_truth(self):
        stage, batch = world("super_res")
        rows = self.pictures(sample_grid(stage, batch))
        assert rows.shape[:2] == (4, 6)  # two pictures a row, three of each
        found = rows.flatten(0, 1).unflatten(0, (8, 3))
        low_res = stage.enlarge(downsample(to_float(batch.image), (2, 2)))
        assert torch.equal(found[:, 0], to_uint8(low_res))
        assert (found[:, 1].int() - batch.image.int()).abs().max() <= 3
        blind, _ = world("super_res", aug_sigma=100.0)  # whose samples are others than the truth
        found = self.pictures(sample_grid(blind, batch)).flatten(0, 1).unflatten(0, (8, 3))
        assert torch.equal(found[:, 2], batch.image)
        assert not torch.equal(found[:, 1], batch.image)

    @pytest.mark.filterwarnings("ignore:::tensorboard")
    def test_a_run_draws_held_out_pictures_with_the_weights_it_ships(self, runtime, tmp_path):
        source = write_folder(tmp_path / "pictures", 96, 16)
        pack(source, tmp_path / "shards", PackSettings(size=16, shards=8, val=0.2), workers=0)
        config = base_config(images=24, grid_every=24, lr=0.1)
        bundle = train(config, name="base_8", data=tmp_path / "shards", out=tmp_path / "run", runtime=runtime)
        held = next(validate.held_out(config, tmp_path / "shards", 16))
        expected = sample_grid(load_bundle(bundle), held)
        with Image.open(tmp_path / "run" / "samples" / "nimg-0000000024.png") as picture:
            found = pil_to_tensor(picture)
        assert found.shape == expected.shape
        assert (found.int() - expected.int()).abs().max() <= 1

    def test_a_sample_is_of_its_truth_s_class(self):
        stage, batch = world("base", classes=8)
        found = self.pictures(sample_grid(stage, batch))
        assert (found[0].int() - batch.image.int()).abs().max() <= 3

    @pytest.mark.parametrize("aug_sigma", [0.0, 0.5])
    def test_its_condition_is_augmented_as_sampling_s_is(self, aug_sigma):
        """The level of the settings is told and applied."""
        stage, batch = world("super_res", aug_sigma=aug_sigma)
        sample_grid(stage, batch)
        low_res = stage.enlarge(downsample(to_float(batch.image), (2, 2)))
        for call in stage.asked:
            assert call.aug_sigma.tolist() == [aug_sigma] * 8
            assert (call.low_res - low_res).square().mean().sqrt().item() == pytest.approx(aug_sigma, rel=0.1)
        assert len(stage.asked) == SAMPLE.num_steps
