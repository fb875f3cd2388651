"""The hybrid loss: on normal data the variance arrives at the closed form, and the mean is trained as without it."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from data.batch import Cond
from stages.build import build_stage
from stages.config import BaseConfig, SampleConfig, StageConfig
from stages.diffusion.parametrisation import EDM
from stages.diffusion.samplers import Answer, Query
from stages.diffusion.variance import WithVariance
from stages.draws import Draws
from stages.guidance import guidance
from stages.objectives.denoising import Drawn
from stages.objectives.hybrid_config import HybridConfig
from stages.sampling import answer, answering, finished, noise_of, of_own, sample_alone, start
from stages.training.grid import sample_grid
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake
from tests.worlds import GaussianData


def hybrid(config: StageConfig, nll: float = 0.001) -> StageConfig:
    values = config.model_dump()
    values["learned_variance"], values["train"]["objective"] = True, {"kind": "hybrid", "nll": nll}
    return type(config).model_validate(values)


class Ideal:
    """A stage with the ideal denoiser of normal data, and a table of F_var, one number an element."""

    config = base_config()

    def __init__(self, world: GaussianData):
        self.world, self.table = world, nn.Parameter(torch.zeros_like(world.mean))
        self.parametrisation = WithVariance(inner=EDM(sigma_data=0.5))

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        F = torch.cat([torch.zeros_like(x), self.table.expand_as(x)], dim=1)
        return Answer(self.world.denoise(x, sigma), self.parametrisation.estimate(F, x, sigma).var)


def test_its_minimum_is_the_posterior_variance(generator):
    num = 4000
    world = GaussianData(
        mean=torch.randn(1, 2, 2).double(), std=torch.tensor([0.1, 0.3, 0.5, 1.0]).double().reshape(1, 2, 2)
    )
    stage, objective = Ideal(world), HybridConfig(nll=1.0).build()
    x0, batch = world.draw(num, generator), shapes_batch(1, 8)
    batch = type(batch)(
        image=batch.image.expand(num, -1, -1, -1), cond=Cond.empty(num), index=torch.arange(num), keys=("",) * num
    )
    levels = Drawn(sigma=torch.full((num,), 0.4).double(), factor=torch.ones(num).double())
    optimizer = torch.optim.Adam([stage.table], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(stage, x0, batch.cond, levels, Draws(batch, 0)).mean().backward()
        optimizer.step()
    var = stage.denoise(x0[:1], levels.sigma[:1], batch.cond).var[0].double()
    expected = 1 / (world.std**-2 + 0.4**-2)
    assert_close(var.detach(), expected, rtol=4 * (2 / num) ** 0.5, atol=0)


@pytest.mark.slow
def test_a_network_arrives_at_it(generator):
    """A U-Net of 4 px on pixels of std 0.2, where sigma_data says 0.5: at the start its variance is too large."""
    config = hybrid(BaseConfig(resolution=4, net={"widths": (16,), "blocks": (1,), "emb_dim": 16}), nll=1.0)
    torch.manual_seed(0)
    stage, objective = build_stage(config), config.train.objective.build()
    world = GaussianData(mean=torch.zeros(3, 4, 4), std=torch.full((3, 4, 4), 0.2))
    optimizer = torch.optim.Adam(stage.parameters(), lr=0.02)
    for k in range(300):
        batch = shapes_batch(32, 4, start=32 * k)
        draws, x0 = Draws(batch, 0), world.draw(32, generator).float()
        levels = objective.levels(stage, draws.uniforms["sigma"]).to(x0)
        optimizer.zero_grad()
        objective.loss(stage, x0, Cond.empty(32), levels, draws).mean().backward()
        optimizer.step()
    for level in (0.1, 0.3, 1.0):
        sigma = torch.full((64,), level)
        x = world.draw(64, generator).float() + level * torch.randn(64, 3, 4, 4, generator=generator)
        with torch.no_grad():
            found = stage.denoise(x, sigma, Cond.empty(64)).var.mean().item()
            start = (1 / stage.parametrisation.weight(sigma))[0].item()
        exact = 1 / (0.2**-2 + level**-2)
        assert found == pytest.approx(exact, rel=0.15), level
        assert start > 1.15 * exact or level == 0.1


def test_the_mean_is_trained_as_without_it():
    """Gradients of the first half of the last layer are those of denoising alone; of the second they are there."""
    gradients = []
    for nll in (0.0, 5.0):
        torch.manual_seed(0)
        stage = wake(build_stage(hybrid(base_config(), nll)))
        F = []
        stage.net.register_forward_hook(
            lambda _module, _inputs, output, F=F: (output.retain_grad(), F.append(output))[0]
        )
        stage(shapes_batch(4, 8), 0, objective=stage.config.train.objective.build()).loss.backward()
        gradients.append(F[0].grad.chunk(2, dim=1))
    (mean, none), (same, some) = gradients
    assert torch.equal(mean, same)
    assert not none.any()
    assert some.abs().sum() > 0


@pytest.mark.parametrize(
    ("learned", "kind", "message"),
    [
        (False, "hybrid", "set learned_variance to true, or the kind to denoising"),
        (True, "denoising", "learned_variance is true; set the kind to hybrid, or learned_variance to false"),
    ],
)
def test_a_variance_and_its_objective_come_together(learned, kind, message):
    """The config says so: a dry run, too, and any command that reads it."""
    values = base_config().model_dump()
    values["learned_variance"], values["train"]["objective"] = learned, {"kind": kind}
    with pytest.raises(ValueError, match=message):
        BaseConfig.model_validate(values)


def test_guidance_keeps_the_conditional_variance():
    """Answers of a stage have it, in shared calls, too; combined, it is that of the first."""
    torch.manual_seed(0)
    stage = wake(build_stage(hybrid(base_config()))).eval()
    batch = shapes_batch(3, 8)
    rule = guidance(SampleConfig(guidance_scale=3.0), batch.cond, ("label",))
    query = Query(torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3))
    asks = rule.asks(query)
    with torch.no_grad():
        answers = answer(stage, of_own(asks))
        alone = stage.denoise(query.x, query.sigma, batch.cond)
    assert len(answers) == 2
    assert not torch.allclose(answers[0].var, answers[1].var)
    combined = rule.combine(query, answers)
    assert torch.equal(combined.var, answers[0].var)
    assert_close(combined.var, alone.var)
    assert (combined.var > 0).all()


def test_samplers_get_the_variance():
    """With it, few steps of DDPM keep the std of normal data, which a fresh network takes pictures for; without, they shrink."""
    stage, shape = build_stage(hybrid(base_config())).eval(), (64, 3, 8, 8)
    noise, stds = noise_of("test", 0, torch.arange(64), "cpu"), {}
    for variance in ("small", "learned"):
        settings = SampleConfig(sampler="ddpm", variance=variance, num_steps=4)
        x0 = finished(start(settings, noise, Cond.empty(64), shape), answering(stage, settings, Cond.empty(64)))
        stds[variance] = x0.std().item()
    assert stds["learned"] == pytest.approx(0.6, rel=0.02)
    assert stds["small"] < 0.5
    with pytest.raises(ValueError, match="gives no variance"):
        sample_alone(build_stage(base_config()).eval(), settings, Cond.empty(64), noise, shape)


def test_grids_show_the_uncertainty():
    """One picture more in each column of a base stage's grid, in each row of a super-resolution stage's."""
    for config, axis in ((base_config(), 1), (sr_config(), 2)):
        plain, more = (sample_grid(build_stage(each).eval(), shapes_batch(4, 16)) for each in (config, hybrid(config)))
        assert more.shape[axis] == plain.shape[axis] + config.resolution + 2
        assert more.shape[3 - axis] == plain.shape[3 - axis]
