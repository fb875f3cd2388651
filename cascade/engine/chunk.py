"""A chunk: some images of one request, going through the chain as a coroutine that yields asks and is sent their answers.

Like a sampler it never calls a network itself, so an engine can hold many chunks and answer several in one call.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Cond, to_float
from data.errors import RunError
from stages.ask import NamedAsks
from stages.conditions.original_size import with_sides
from stages.conditions.position import with_positions
from stages.consistency import agreement
from stages.diffusion.samplers import Answer, Noise, Query, Sampler
from stages.guidance import Guidance, guidance
from stages.guiding.beside import NOTHING, Beside
from stages.handover import without_aug
from stages.sampling import noise_of, start

from ..conditions import beside_of_stage, for_stage
from ..events import Event, Finished, Preview, StageFinished, StageStarted
from ..link import Link
from ..plan import Plan
from ..source import Source
from ..uncertainty import Uncertainty, as_picture
from .canvas import Canvas
from .control import Control, unguided
from .host import Asks, addressed
from .shaper import Shaper
from .tiles import answered
from .work import Chunk


@dataclass(frozen=True, kw_only=True)
class Painting:
    """The work of a plan: it takes its images through all of its stages. conds: a condition for each of `plan.wanted`; beside: what
    is said of the guidance of each. source_conds: what an inverted source shows, for each of its rows or for all."""

    plan: Plan
    conds: Cond
    beside: Beside = NOTHING
    source_conds: Cond | None = None

    @property
    def first(self) -> str:
        """The host of the first step: the network of the first stage."""
        return self.plan.links[0].name

    @property
    def total(self) -> int:
        """Number of images to paint: of the picked ones, if some are picked."""
        return len(self.plan.index)

    @property
    def weight(self) -> int:
        """Memory of an image, in images of the cascade's own size."""
        return self.plan.weight

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return self.plan.num_chunks

    def chunk(self, number: int) -> tuple[int, ...]:
        """The numbers of the images of one chunk."""
        return self.plan.chunk(number)

    def steps(self, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
        """The coroutine of a chunk; see `paint`."""
        return paint(self, index, emit)

    def finished(self) -> Event:
        """The event after the last chunk."""
        return Finished(num=self.total, nfe=self.plan.nfe)


def paint(work: Painting, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
    """Sample the images `index` through all stages of a plan. Pictures pass from stage to stage as uint8, so the next stage gets
    exactly what is shown, stored and picked from. Raises RunError for NaN or infinity in x0_hat."""
    plan = work.plan
    described = [plan.cond_row(image) for image in index]
    conds = work.conds[torch.tensor(described)]
    pictures = plan.request.given(index)
    rows = torch.tensor([plan.request.noise_number(image) for image in index])
    source, noisy = (
        plan.request.sources(index),
        None,
    )  # noisy: x of a stage that stopped early, of the size of its pictures
    if source is not None and pictures is None and (takes := plan.takes) is not None:
        pictures = source.at(takes).images
    for link, size in zip(plan.links, plan.sizes, strict=True):
        stage, config, space = link.stage, link.stage.config, link.stage.space
        canvas = Canvas.of(link.sidecar.config, size, continued=pictures is not None and size != config.gives)
        noise = noise_of(link.name, plan.request.seed, rows, link.device)
        below = None if pictures is None else space.load(canvas.continued(pictures)).to(link.device)
        drawn = noise
        if noisy is not None:
            below, drawn = canvas.continued(noisy).to(link.device), without_aug(noise)
        stage_cond = for_stage(conds, link.sidecar.config.cond).to(link.device)
        stage_cond = mapped(stage_cond, plan.request.maps_of(index), link, canvas)
        stage_cond = placed(with_size(stage_cond, link, size), link, canvas)
        cond = yield from asked(link, stage.condition(stage_cond, below, link.settings, drawn))
        beside = beside_of_stage(work.beside.of(described, plan.scales(link.name, index)), link.sidecar.config.cond)
        rule = guidance(link.settings, cond, config.cond.names, link.hosts, beside.to(link.device), noise)
        shapers = (*plan.shapers, *agreement(link.settings, below, space))
        nfe = plan.calls(link)
        told = Told(link=link, index=index, nfe=nfe, canvas=canvas, emit=emit, unsure=unsure_of(plan, link))
        started = StageStarted(stage=link.name, index=index, nfe=nfe)
        if source is None or link.name not in plan.seeing:
            shape = (len(rows), *config.shape(canvas.size))
            sampler = start(link.settings, noise, cond, shape, levels=link.settings.levels)
            emit(started)
        else:
            emit(started)
            control = Control.of(source, link, canvas)
            x = None
            if source.inverted:
                shown = yield from asked(link, shown_cond(work, source, link, canvas, index, noise))
                plain = guidance(unguided(link.settings), shown, config.cond.names, link.hosts, noise=noise)
                x = yield from driven(control.inversion(), link, plain, (), told)
                told.unsure = unsure_of(plan, link)  # the way down begins anew
            sampler, shapers = control.start(noise, cond, x), (*shapers, control)
        x0, noisy = (yield from driven(sampler, link, rule, shapers, told)), None
        if link.settings.sigma_end and link.settings.handover == "x":
            assert told.painted is not None
            x0, noisy = told.painted, canvas.cells(x0)  # what is shown of a stage that stops is its last x0_hat
        for shaper in shapers:
            x0 = shaper.finish(x0)
        pictures = canvas.cut(space.store(x0))
        emit(
            StageFinished(
                stage=link.name,
                index=index,
                images=space.show(pictures),
                last=link is plan.links[-1],
                uncertainty=told.uncertainty,
            )
        )


def unsure_of(plan: Plan, link: Link) -> Uncertainty | None:
    """What follows a stage's uncertainty, where the request asks for it and the stage predicts a variance."""
    config = link.sidecar.config
    if not (plan.request.uncertainty and config.learned_variance):
        return None
    return Uncertainty(sigma_data=config.noise.sigma_data)


@dataclass(kw_only=True)
class Told:
    """Tells the answers of a stage as previews, and counts them."""

    link: Link
    index: tuple[int, ...]
    nfe: int
    canvas: Canvas
    emit: Callable[[Event], None]
    step: int = 0
    painted: Tensor | None = None
    unsure: Uncertainty | None = None

    @property
    def uncertainty(self) -> Tensor | None:
        """How unsure each pixel was at sigma_data, as a picture."""
        if self.unsure is None or self.unsure.kept is None:
            return None
        return as_picture(self.unsure.kept, self.canvas)

    def __call__(self, query: Query, answer: Answer) -> None:
        """Emit a preview of an answer to a query. Raises RunError for NaN or infinity in it."""
        self.step += 1
        if not torch.isfinite(answer.x0_hat).all():
            call = f"call {self.step} of {self.nfe}"
            raise RunError(f"stage {self.link.name}: NaN or infinity in x0_hat at {call}; try --precision fp32")
        self.painted = over(self.painted, query, answer)
        if self.unsure is not None:
            self.unsure(query, answer)
        self.emit(
            Preview(
                stage=self.link.name,
                index=self.index,
                step=self.step,
                nfe=self.nfe,
                painted=self.painted,
                canvas=self.canvas,
                space=self.link.stage.space,
                unsure=None if self.unsure is None else self.unsure.now,
            )
        )


def driven(
    sampler: Sampler, link: Link, rule: Guidance, shapers: Sequence[Shaper], told: Told
) -> Generator[Asks, list[Answer], Tensor]:
    """Run a sampler to its result: each of its queries is answered, reshaped and told."""
    try:
        query = next(sampler)
        while True:
            answer = yield from answered(link, rule, query)
            for shaper in shapers:
                answer = shaper.each(query, answer)
            told(query, answer)
            query = sampler.send(answer)
    except StopIteration as stop:
        return stop.value


def shown_cond(
    work: Painting, source: Source, link: Link, canvas: Canvas, index: tuple[int, ...], noise: Noise
) -> Generator[NamedAsks, list[Answer], Cond]:
    """The condition of a stage for what an inverted source shows: its own description, and the source itself as low_res."""
    assert work.source_conds is not None
    rows = torch.tensor([work.plan.request.source_row(image) % len(work.source_conds) for image in index])
    cond = for_stage(work.source_conds[rows], link.sidecar.config.cond).to(link.device)
    cond = placed(with_size(cond, link, canvas.inner), link, canvas)
    if link.contract.low_res is None:
        return (yield from link.stage.condition(cond, None, link.settings, noise))
    height, width = (side // canvas.factor for side in canvas.inner)
    below = link.stage.space.load(canvas.continued(source.at((height, width)).images)).to(link.device)
    return (yield from link.stage.condition(cond, below, link.settings, noise))


def over(painted: Tensor | None, query: Query, answer: Answer) -> Tensor:
    """x0_hat of all images of a chunk: that of the answer where it was queried, else what was painted before."""
    if query.rows is None or painted is None:
        return answer.x0_hat
    return painted.index_copy(0, query.rows, answer.x0_hat)


def mapped(cond: Cond, maps: Tensor | None, link: Link, canvas: Canvas) -> Cond:
    """The condition of a stage that takes maps, with maps (b, c, h, w) uint8 at the size of its x0, or with dropped ones."""
    wanted = link.sidecar.config.cond.maps
    if wanted is None:
        return cond
    if maps is not None:
        return cond.given(maps=canvas.mapped(to_float(maps.to(link.device))))
    shape = (cond.num, wanted.channels, *(side // canvas.scale for side in canvas.size))
    return cond.given(maps=torch.zeros(shape, device=link.device)).dropped(("maps",))


def with_size(cond: Cond, link: Link, size: tuple[int, int]) -> Cond:
    """The condition of a stage that is told an original size, with (height, width) `size` as one that settings do not give."""
    return with_sides(cond, size) if link.sidecar.config.cond.original_size else cond


def placed(cond: Cond, link: Link, canvas: Canvas) -> Cond:
    """The condition of a stage that is told positions, with those of its canvas."""
    return with_positions(cond, canvas.positions()) if link.sidecar.config.cond.position else cond


def asked(link: Link, steps: Generator[NamedAsks, list[Answer], Cond]) -> Generator[Asks, list[Answer], Cond]:
    """Address the asks that a stage needs for its condition to the link's hosts, and return the condition."""
    try:
        asks = next(steps)
        while True:
            asks = steps.send((yield addressed(asks, link.hosts)))
    except StopIteration as stop:
        return stop.value
