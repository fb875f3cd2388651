"""Averages made afterwards against averages kept all along, on weights that really moved."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from stages import export
from stages.bundle import load_bundle, read_sidecar
from stages.training.ema import decay_of, ema_file
from stages.training.loop import train
from stages.training.posthoc import coefficients, profile, reconstruct, stored_averages
from tests.stages.tiny import base_config

BATCH, NUM = 8, 2000


def walked(half_lives, every=400, num=NUM):
    """A random walk of 64 weights: {(nimg, half_life): average} every so often and at the end, exactly as ema.py has it."""
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(64, generator=numbers, dtype=torch.float64)
    averages, kept = {half_life: weight.clone() for half_life in half_lives}, {}
    for k in range(1, num + 1):
        weight = weight + 0.05 * torch.randn(64, generator=numbers, dtype=torch.float64)
        for half_life, average in averages.items():
            average.lerp_(weight, 1 - decay_of(half_life, k * BATCH, BATCH))
        if k % every == 0 or k == num:
            kept |= {(k * BATCH, half_life): average.clone() for half_life, average in averages.items()}
    return kept


def write(folder, averages, stored):
    for nimg, half_life in stored:
        place = folder / "snapshots" / f"nimg-{nimg:010d}"
        place.mkdir(parents=True, exist_ok=True)
        save_file({"w": averages[nimg, half_life]}, ema_file(place, half_life))


@pytest.mark.parametrize(("half_life", "nimg"), [(40, 800), (300, 800), (10**6, 800), (300, 400)])
def test_a_profile_is_what_the_average_does_to_each_update(half_life, nimg):
    """Averaging unit vectors, one an update, writes the profile down."""
    average = torch.eye(1, 101, dtype=torch.float64)[0]
    for k in range(1, nimg // BATCH + 1):
        average.lerp_(torch.eye(1, 101, dtype=torch.float64).roll(k)[0], 1 - decay_of(half_life, k * BATCH, BATCH))
    found = profile(half_life, nimg, end=800, step=BATCH)
    assert_close(found, average, rtol=1e-9, atol=1e-12)
    assert found.sum().item() == pytest.approx(1)


def test_a_profile_of_an_average_that_began_later():
    average = torch.eye(1, 101, dtype=torch.float64)[0].roll(30)  # the weights after 30 updates
    for k in range(31, 101):
        average.lerp_(torch.eye(1, 101, dtype=torch.float64).roll(k)[0], 1 - decay_of(300, k * BATCH, BATCH))
    assert_close(profile(300, 800, end=800, step=BATCH, begun=240), average, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("half_life", [700, 900, 1100, 1400])
def test_any_half_life_between_the_stored_ones(tmp_path, half_life):
    """Two half-lives stored five times give a third as it would have been; the nearer stored one is several times farther away."""
    lives = (500, 3000)
    averages = walked((*lives, half_life))
    write(tmp_path, averages, [key for key in averages if key[1] in lives])
    end = NUM * BATCH
    weights, error = reconstruct(tmp_path, half_life, end, BATCH)
    wanted = averages[end, half_life]
    off = (weights["w"].double() - wanted).norm()
    nearest = min((averages[end, life] - wanted).norm() for life in lives)
    assert error < 0.1
    assert off < 0.35 * nearest


def test_a_stored_one_comes_back_as_it_is(tmp_path):
    averages = walked((500, 3000))
    write(tmp_path, averages, averages)
    for (nimg, half_life), average in averages.items():
        weights, error = reconstruct(tmp_path, half_life, nimg, BATCH)
        assert error < 1e-9
        assert_close(weights["w"].double(), average, rtol=1e-5, atol=1e-5)


def test_what_the_stored_ones_do_not_hold_is_refused(tmp_path):
    averages = walked((500,))
    write(tmp_path, averages, averages)
    with pytest.raises(
        ValueError, match=r"half-life 20 at image 16,000 is not in the 5 stored averages .*from 500 to 500"
    ):
        reconstruct(tmp_path, 20, NUM * BATCH, BATCH)
    with pytest.raises(ValueError, match="no averages up to image 80"):
        reconstruct(tmp_path, 500, 80, BATCH)


def test_a_damaged_one_is_named_with_the_way_out(tmp_path):
    averages = walked((500,))
    write(tmp_path, averages, averages)
    next(tmp_path.rglob("ema-500.safetensors")).write_bytes(b"{")
    with pytest.raises(
        ValueError, match=r"ema-500\.safetensors: not a whole safetensors file .*; restore it, or remove"
    ):
        reconstruct(tmp_path, 500, NUM * BATCH, BATCH)


def test_long_runs_are_looked_at_in_coarser_steps():
    """Ten million images, batch 8: a profile stays below POINTS numbers and says the same."""
    from stages.training.posthoc import POINTS, Stored

    stored = [Stored(nimg, life, None) for nimg in range(10**6, 10**7 + 1, 10**6) for life in (10**5, 10**6)]
    step = BATCH * -(-(10**7) // (BATCH * POINTS))
    assert len(profile(1e5, 10**7, end=10**7, step=step)) <= POINTS + 1
    factors, error = coefficients(stored, 3e5, 10**7, BATCH)
    assert error < 0.2
    assert factors.sum().item() == pytest.approx(1, abs=0.05)


@pytest.fixture(scope="module")
def trained(shards, runtime, tmp_path_factory):
    out, config = (
        tmp_path_factory.mktemp("posthoc") / "base_8",
        base_config(images=160, save_every=80, snapshot_every=16, keep=1),
    )
    train(config, name="base_8", data=shards, out=out, runtime=runtime)
    return out


class TestExport:
    def test_what_was_stored(self, trained):
        assert {each.nimg for each in stored_averages(trained)} == set(range(16, 161, 16))
        assert {each.half_life for each in stored_averages(trained)} == {16, 64}
        assert not list(trained.rglob("*.tmp"))

    def test_the_run_s_own_half_life_is_its_own_bundle(self, trained, tmp_path):
        export.main(trained, tmp_path / "bundle")
        made, own = (load_file(each / "bundle" / "ema.safetensors") for each in (tmp_path, trained))
        assert_close(made, own, rtol=1e-4, atol=1e-5)

    def test_another_half_life_at_another_place(self, trained, tmp_path, capsys):
        export.main(trained, tmp_path / "bundle", nimg=144, half_life=30)
        assert "144 images, half-life 30, error of the average's profile" in capsys.readouterr().out
        assert (
            read_sidecar(tmp_path / "bundle").provenance.nimg,
            read_sidecar(tmp_path / "bundle").provenance.ema,
        ) == (144, 30)
        load_bundle(tmp_path / "bundle")

    def test_half_the_bits_are_half_the_file_and_the_same_stage(self, trained, tmp_path):
        for name, half in (("whole", False), ("half", True)):
            export.main(trained, tmp_path / name, half=half)
        whole, half = (load_file(tmp_path / name / "ema.safetensors") for name in ("whole", "half"))
        assert {tensor.dtype for tensor in half.values()} == {torch.float16}
        assert_close({name: tensor.float() for name, tensor in half.items()}, whole, rtol=5e-4, atol=1e-7)
        sizes = [(tmp_path / name / "ema.safetensors").stat().st_size for name in ("whole", "half")]
        assert sizes[1] < 0.55 * sizes[0]
        assert {weight.dtype for weight in load_bundle(tmp_path / "half").state_dict().values()} == {torch.float32}

    def test_a_folder_of_other_things_is_left_alone(self, trained, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match="is no bundle and not empty"):
            export.main(trained, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_folder_that_is_no_run(self, tmp_path):
        with pytest.raises(OSError, match=r"config\.json"):
            export.main(tmp_path, tmp_path / "bundle")
