"""Spaces that the package does not have, each a config and a class in the registry: Haar coefficients of a picture, and films."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from torch import Tensor

import stages.config
from cascade.config import CascadeConfig
from cascade.engine.engine import Engine
from cascade.engine.host import own_host
from cascade.engine.tiles import TOKENS, most_pixels
from cascade.events import Preview, StageFinished
from cascade.manifest import check_chain, write_manifest
from cascade.pipeline import Cascade, Link
from cascade.request import Request
from data.batch import to_float
from data.errors import TAGS
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.build import build_stage
from stages.bundle import Sidecar, load_bundle, make_contract, read_sidecar
from stages.config import BaseConfig, StageConfig, SuperResConfig
from stages.spaces.config import SpaceConfig
from stages.spaces.pixels_config import PixelsConfig
from stages.spaces.registry import SPACES
from stages.spaces.space import Size
from stages.strict import one_of
from stages.texts import LATER, as_values
from stages.tools.cost import cost_of
from stages.training.loop import train
from stages.training.validate import make_validation
from tests.cascade.chains import finished, sidecar, write_bundle
from tests.stages.tiny import base_config, shapes_batch, sr_config
from tests.worlds import FiniteBase, FiniteData

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
PIXELS = PixelsConfig().build()


class HaarConfig(SpaceConfig):
    """Four times the channels, half the sides."""

    implementation: ClassVar[str] = f"{__name__}:Haar"
    kind: Literal["haar"] = "haar"

    @property
    def scale(self) -> int:
        return 2

    def shape(self, channels: int, size: Size) -> tuple[int, ...]:
        return super().shape(4 * channels, size)


class Haar:
    """Sums and differences of 2 x 2 px, an orthonormal map that is its own inverse.

    A mirrored x0 is not the x0 of a mirrored picture.
    """

    bounds = (-2.0, 2.0)

    def __init__(self, config: HaarConfig):
        signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
        self.config, self.map = config, torch.tensor(signs) / 2

    def read(self, stored: Tensor, size: Size, flipped: Tensor | None = None) -> Tensor:
        return self._split(PIXELS.read(stored, self._px(size), flipped))

    def mirrored(self, x: Tensor, flipped: Tensor | None) -> Tensor:
        return x if flipped is None else self._split(PIXELS.mirrored(self._joined(x), flipped))

    def load(self, stored: Tensor) -> Tensor:
        return self._split(PIXELS.load(stored))

    def store(self, x: Tensor) -> Tensor:
        return PIXELS.store(self._joined(x))

    def down(self, x: Tensor, size: Size) -> Tensor:
        return self._split(PIXELS.down(self._joined(x), self._px(size)))

    def up(self, x: Tensor, size: Size) -> Tensor:
        return self._split(PIXELS.up(self._joined(x), self._px(size)))

    def windows(self, tensors: tuple[Tensor, ...], size: int, corners: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return PIXELS.windows(tensors, size, corners)

    def show(self, stored: Tensor) -> Tensor:
        return stored

    def _px(self, size: Size) -> Size:
        return tuple(2 * side for side in size)

    def _split(self, pictures: Tensor) -> Tensor:
        return self._mapped(F.pixel_unshuffle(pictures, 2))

    def _joined(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self._mapped(x), 2)

    def _mapped(self, x: Tensor) -> Tensor:
        fours = x.unflatten(1, (-1, 4))
        return torch.einsum("ij,bcjhw->bcihw", self.map.to(x), fours).flatten(1, 2)


class FilmConfig(SpaceConfig):
    implementation: ClassVar[str] = f"{__name__}:Film"
    kind: Literal["film"] = "film"
    frames: int

    @property
    def handed(self) -> str:
        return f"films of {self.frames}"

    def shape(self, channels: int, size: Size) -> tuple[int, ...]:
        return (channels, self.frames, *size)

    def stored(self, channels: int, size: Size) -> tuple[int, ...]:
        return self.shape(channels, size)


class Film:
    """(b, c, frames, h, w) in [-1, 1]; a person sees the frames beside each other."""

    bounds = (-1.0, 1.0)

    def __init__(self, config: FilmConfig):
        self.config = config

    def load(self, stored: Tensor) -> Tensor:
        return to_float(stored)

    def store(self, x: Tensor) -> Tensor:
        return PIXELS.store(x)

    def show(self, stored: Tensor) -> Tensor:
        return stored.transpose(2, 3).flatten(3)


@contextmanager
def registered(**spaces: type[SpaceConfig]) -> Iterator[None]:
    """With the line in the registry that a space of the package has."""
    models: tuple[Any, ...] = (BaseConfig, SuperResConfig, Sidecar, CascadeConfig)
    with pytest.MonkeyPatch.context() as patch:
        for word, config in spaces.items():
            patch.setitem(SPACES, word, config)
        key = Annotated[one_of(SPACES, default="pixels"), LATER]
        for kind in stages.config.KINDS.values():
            patch.setitem(kind.model_fields, "space", FieldInfo.from_annotated_attribute(key, PixelsConfig()))
        for model in models:
            model.model_rebuild(force=True)
        TAGS.update(spaces)
        yield
    TAGS.difference_update(spaces)
    for model in models:
        model.model_rebuild(force=True)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with registered(haar=HaarConfig, film=FilmConfig):
        yield


def of(config: StageConfig, **changed: Any) -> StageConfig:
    """The same as its text would have it with some keys changed."""
    return type(config).model_validate(as_values(config) | changed, strict=False)


@pytest.fixture(scope="module")
def config() -> StageConfig:
    """8 px pictures as 4 x 4 cells of 12 coefficients."""
    return of(base_config(images=8, flip=True, grid_every=8, save_every=8, val_images=4), space={"kind": "haar"})


@pytest.fixture(scope="module")
def folder(config, shards, runtime, tmp_path_factory) -> Path:
    """A cascade: the base stage after one update, and a super-resolution stage of pixels."""
    out = tmp_path_factory.mktemp("haar")
    bundle = train(config, name="base_8", data=shards, out=out / "base_8", runtime=runtime)
    above = sr_config(crop=0)
    write_bundle(out / "sr_16" / "bundle", above, classes=read_sidecar(bundle).provenance.classes)
    write_manifest(CascadeConfig(name="haar", stages={"base_8": config, "sr_16": above}), out)
    return out


def test_a_text_without_a_space_is_of_pixels_and_is_written_as_before(config):
    pixels = base_config()
    assert "space" not in as_values(pixels)
    assert of(pixels, space={"kind": "pixels"}) == pixels
    assert build_stage(pixels).space is build_stage(sr_config()).space is PIXELS
    assert as_values(config)["space"] == {"kind": "haar"}
    assert build_stage(config).space is HaarConfig().build()
    with pytest.raises(ValidationError, match="tag 'other'"):
        of(pixels, space={"kind": "other"})


def test_it_is_trained_in_its_space_and_bundled(config, folder):
    bundle = folder / "base_8" / "bundle"
    stage = load_bundle(bundle)
    assert stage.config == config
    assert json.loads((bundle / "stage.json").read_text())["config"]["space"] == {"kind": "haar"}
    assert stage.config.size == (4, 4)
    assert stage.net.conv_in.weight.shape[1] == 12 + 1  # the constant channel
    assert (folder / "base_8" / "samples" / "nimg-0000000008.png").exists()
    assert 0 < cost_of(config).forward_flops < cost_of(base_config()).forward_flops


def test_a_flip_is_one_of_pictures(config):
    space, batch = config.space.build(), shapes_batch(8, 8)
    flipped = torch.arange(8) % 2 == 0
    mirrored = torch.where(flipped[:, None, None, None], batch.image.flip(-1), batch.image)
    assert torch.equal(space.read(batch.image, (4, 4), flipped), space.read(mirrored, (4, 4)))
    assert not torch.equal(space.read(batch.image, (4, 4), flipped)[0], space.read(batch.image, (4, 4))[0].flip(-1))
    assert torch.equal(space.store(space.load(batch.image)), batch.image)


def engine(cascade: Cascade, request: Request) -> list[Any]:
    """The events of an engine."""
    told: list[Any] = []
    one = Engine(cascade, max_running=1, batch=dict.fromkeys(cascade.names, 2 * request.batch))
    one.submit(request, told.append)
    while one.tick():
        pass
    return told


def test_its_pictures_go_to_a_stage_of_pixels(folder):
    cascade = Cascade.load(folder)
    request = Request(num=2, labels=(1,), seed=3)
    alone = list(cascade.sample(request))
    together = engine(cascade, request)
    given, large = finished(alone, "base_8"), finished(alone)
    assert (given.shape, large.shape) == ((2, 3, 8, 8), (2, 3, 16, 16))
    for stage in cascade.names:
        assert torch.equal(finished(together, stage), finished(alone, stage))
    before = next(event for event in reversed(alone) if isinstance(event, Preview) and event.stage == "base_8")
    assert before.x0_hat.shape == (2, 12, 4, 4)
    assert torch.equal(before.images, given)  # dpmpp_2m ends in the last answer
    picked = Request(num=2, labels=(1,), seed=3, first="sr_16", low_res=given, pick=(0, 1))
    assert torch.equal(finished(cascade.sample(picked)), large)


def test_a_stage_of_pixels_is_validated_on_its_pictures(folder, shards, tmp_path):
    pack(
        write_folder(tmp_path / "pictures", 12, 16),
        tmp_path / "held",
        PackSettings(size=16, shards=2, val=0.5),
        workers=0,
    )
    found = make_validation(
        sr_config(val_images=4), str(tmp_path / "held"), torch.device("cpu"), folder / "base_8" / "bundle"
    )
    assert found is not None
    assert found.low_res is not None
    assert found.low_res[0].shape[1:] == (3, 8, 8)
    assert torch.equal(found.low_res[0], to_float(PIXELS.store(found.low_res[0])))
    assert math.isfinite(found.losses(build_stage(sr_config()).eval())["val_loss_generated"])


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_a_stage_in_it_may_take_pictures_too(size):
    """On crops, and on pictures of sides that it has no cells for."""
    above = of(sr_config(crop=8), space={"kind": "haar"})
    assert above.multiple == 2 * above.net.multiple
    batch = shapes_batch(8, 16)
    assert build_stage(above)(batch, seed=0).per_image.isfinite().all()
    stage = build_stage(above)
    model = Cascade(
        [Link(name="sr_16", hosts=own_host("sr_16", stage.eval()), sidecar=sidecar(above), settings=above.sample)]
    )
    low_res = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    *_, before, last, _ = model.sample(Request(low_res=low_res))
    assert isinstance(before, Preview)
    assert isinstance(last, StageFinished)
    assert last.images.shape == before.images.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert before.x0_hat.shape[1:] == (12, *size)
    assert (F.interpolate(low_res.float(), scale_factor=2) - last.images).abs().mean() < 64


@pytest.mark.parametrize(("kind", "changed", "told"), [
    (base_config, {"resolution": 6},
     "6 is no multiple of 4, 2 px a cell of space haar times 2 = patch x 2^(levels - 1); use fewer levels"),
    (sr_config, {"crop": 2}, "crop 2 must be at most 16 and a multiple of the factor 2 times 2 px a cell of space haar"),
    (sr_config, {"resolution": 24, "low_res": 3, "crop": 0}, "low_res 3 is no multiple of 2 = px a cell of space haar"),
])  # fmt: skip
def test_sides_that_have_no_whole_cells_are_refused(kind, changed, told):
    with pytest.raises(ValidationError) as refused:
        of(kind(), space={"kind": "haar"}, **changed)
    assert told in str(refused.value)


def test_self_attention_compares_cells():
    haar = of(base_config(net={"self_attention": (1,)}), space={"kind": "haar"})
    link = Link(name="base_8", hosts=own_host("base_8", build_stage(haar)), sidecar=sidecar(haar), settings=haar.sample)
    assert most_pixels(link) == TOKENS * (2 * 2) ** 2


@pytest.fixture(scope="module")
def films() -> Tensor:
    """Five films of three frames."""
    generator = torch.Generator().manual_seed(0)
    return to_float(torch.randint(0, 256, (5, 3, 3, 8, 8), generator=generator).to(torch.uint8))


@pytest.mark.parametrize("size", [None, (8, 8)])
def test_a_film_has_an_axis_before_height_and_width(films, size):
    own = of(base_config(classes=0, net={"widths": (8,), "blocks": (1,)}), space={"kind": "film", "frames": 3})
    assert (own.size, own.gives) == ((3, 8, 8), (8, 8))
    stage = FiniteBase(own, FiniteData(images=films))
    cascade = Cascade([Link(name="base_8", hosts=own_host("base_8", stage), sidecar=sidecar(own), settings=own.sample)])
    request = Request(num=3, seed=1, size=size, settings={"base_8": {"num_steps": 8}})
    alone = list(cascade.sample(request))
    shown = finished(alone)
    assert shown.shape == (3, 3, 8, 24)
    wide = own.space.build().show(own.space.build().store(films))
    assert all(any(torch.equal(one, film) for film in wide) for one in shown)
    assert torch.equal(finished(engine(cascade, request)), shown)
    assert cascade.links[0].host.area == 3 * 8 * 8


def test_a_picture_is_not_made_of_a_film():
    film, above = of(base_config(), space={"kind": "film", "frames": 3}), sr_config(crop=0)
    with pytest.raises(ValidationError, match="stage sr_16 takes pixels, but base_8 gives films of 3"):
        CascadeConfig(name="mixed", stages={"base_8": film, "sr_16": above})
    with pytest.raises(ValueError, match="stage sr_16 takes pixels, but base_8 gives films of 3"):
        check_chain({"base_8": make_contract(film, None), "sr_16": make_contract(above, None)})
    assert "space" not in as_values(make_contract(above, None))
