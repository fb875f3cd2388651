"""The local engine: accumulation changes nothing, what is not finite is not applied, a saved state goes on bit for bit."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Batch
from stages.kinds.base import BaseStage
from stages.stage import Stage
from stages.training.engine import LocalEngine, LossScale, Update, check_optimizer, is_elementwise
from stages.training.loop import split
from tests.stages.training.updates import BATCH, NUM, build, config, global_batch, lr_of

CPU = torch.device("cpu")


def engine() -> LocalEngine:
    return LocalEngine(build(), config(), CPU)


def train(made: LocalEngine, micro: int, first: int = 0, last: int = NUM) -> list[Update]:
    return [made.update(split(global_batch(k), micro), lr_of(k)) for k in range(first, last)]


def state(stage: Stage) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_changes_nothing(micro):
    """8 images at once, or 2 x 4, 4 x 2, 8 x 1: float32 rounds sums differently, 1e-4 after five updates of Adam."""
    whole, parts = engine(), engine()
    for one, many in zip(train(whole, BATCH), train(parts, micro), strict=True):
        assert_close(many.loss, one.loss, rtol=1e-4, atol=0)
        assert_close(many.grad_norm, one.grad_norm, rtol=1e-3, atol=0)
        assert len(many.losses) == BATCH // micro
        assert_close(torch.cat([part.per_image for part in many.losses]), one.losses[0].per_image, rtol=1e-3, atol=1e-4)
    assert_close(state(parts.stage), state(whole.stage), rtol=1e-3, atol=1e-4)


def test_it_learns():
    made = engine()
    before = state(made.stage)
    losses = [made.update([global_batch(0)], 1e-2).loss for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(tensor, before[name]) for name, tensor in made.stage.named_parameters())
    for name, buffer in made.stage.named_buffers():
        assert torch.equal(buffer, before[name])


def test_learning_rate_zero_moves_nothing():
    made = engine()
    before = state(made.stage)
    made.update([global_batch(0)], 0.0)
    assert_close(state(made.stage), before, rtol=0, atol=0)


def test_gradients_are_clipped_and_told_as_they_were():
    stage = build()
    tight = LocalEngine(stage, config().model_copy(update={"clip": 1e-3}), CPU)
    seen = []
    tight.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.nn.utils.get_total_norm([p.grad for p in stage.parameters()]).item())
    )
    update = tight.update([global_batch(0)], 0.0)
    assert seen == pytest.approx([1e-3], rel=1e-3)
    assert update.grad_norm == pytest.approx(train(engine(), BATCH, last=1)[0].grad_norm, rel=1e-4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_applied(where, value):
    made = engine()
    train(made, 4, last=1)
    before, moments = state(made.stage), made.optimizer.state_dict()
    hooked = poison(made.stage, where, value)
    assert [update.applied for update in train(made, 4, 1, 2)] == [False]
    assert_close(state(made.stage), before, rtol=0, atol=0)
    assert_close(made.optimizer.state_dict()["state"], moments["state"], rtol=0, atol=0)
    hooked.remove()
    whole = engine()
    assert [train(whole, 4, k, k + 1)[0].loss for k in (0, 2)][1] == train(made, 4, 2, 3)[
        0
    ].loss  # nothing of it is left


def poison(stage: BaseStage, where: str, value: float):
    """Makes one gradient or the loss not finite, until the handle is removed."""
    if where == "gradient":
        return stage.net.conv_in.weight.register_hook(lambda gradient: gradient * value)
    return stage.register_forward_hook(lambda _stage, _in, losses: losses._replace(loss=losses.loss * value))


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd", "adafactor", "nadam"])
def test_a_saved_state_goes_on_bit_for_bit(optimizer):
    settings = config().model_copy(update={"optimizer": optimizer})
    whole, first = (LocalEngine(build(), settings, CPU) for _ in range(2))
    train(whole, 4)
    train(first, 4, last=3)
    saved = first.state()
    train(first, 4, 3)  # a state is a copy: what comes after does not change it
    second = LocalEngine(BaseStage(first.stage.config), settings, CPU)  # other weights, to be replaced
    second.load(saved)
    train(second, 4, 3)
    second.load(saved)  # nor does training on what was loaded
    train(second, 4, 3)
    assert_close(second.state(), whole.state(), rtol=0, atol=0)


def test_activation_checkpointing_changes_nothing_but_memory():
    plain, checkpointed = engine(), engine()
    checkpointed.stage.net.checkpointed = True
    kept = []
    for made in (plain, checkpointed):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t):
            made.stage(global_batch(0), 0)
        kept.append(sum(saved))
    assert kept[1] < 0.5 * kept[0]
    assert [update.loss for update in train(plain, 4)] == [update.loss for update in train(checkpointed, 4)]
    assert_close(checkpointed.state(), plain.state(), rtol=0, atol=0)


class TestLossScale:
    def test_only_half_precision_is_scaled(self):
        for precision in ("fp32", "bf16"):
            scaler = LossScale(precision)
            scaler.update(applied=False)
            assert (scaler.scale, scaler.state()) == (1.0, {})

    def test_it_halves_on_overflow_and_doubles_after_a_while(self):
        scaler = LossScale("fp16", start=8.0, every=3)
        seen = []
        for applied in (
            True,
            False,
            True,
            True,
            True,
            True,
            True,
            True,
            False,
            False,
            False,
            False,
            False,
            False,
            False,
        ):
            scaler.update(applied)
            seen.append(scaler.scale)
        assert seen == [8, 4, 4, 4, 8, 8, 8, 16, 8, 4, 2, 1, 1, 1, 1]

    def test_it_is_part_of_the_state(self):
        scaler, other = LossScale("fp16", start=8.0, every=3), LossScale("fp16", every=3)
        scaler.update(applied=True)
        other.load(scaler.state())
        assert (other.scale, other.good) == (8.0, 1)

    def test_a_scale_does_not_change_the_update(self):
        """A power of two, in float32: the same bits."""
        plain, scaled = engine(), engine()
        scaled.scaler.scale = 2.0**10
        for one, other in zip(train(plain, 4), train(scaled, 4), strict=True):
            assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)
        assert_close(scaled.state(), plain.state(), rtol=0, atol=0)


class TestElementwise:
    """What ZeRO may flatten: the update of each number depends on its own history alone."""

    @pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "nadam", "adopt"])
    def test_these_are(self, name):
        assert is_elementwise(config().model_copy(update={"optimizer": name}))

    @pytest.mark.parametrize("name", ["muon", "lamb", "adafactor", "lars"])
    def test_these_are_not_and_are_refused_with_zero(self, name):
        settings = config().model_copy(update={"optimizer": name, "weight_decay": 0.1})
        check_optimizer(settings, elementwise=False)
        with pytest.raises(ValueError, match=f"train.optimizer '{name}' works on whole matrices.*--zero 0, or adamw"):
            check_optimizer(settings, elementwise=True)


@pytest.mark.parametrize("same", [True, False])
def test_dropout_is_a_function_of_seed_and_position(same):
    """The global generator is set from the first image of an update, so a resumed run drops the same units."""
    torch.manual_seed(0)
    changed = build().config.model_copy(deep=True)
    net = changed.net.model_copy(update={"dropout": 0.5})
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        made = LocalEngine(BaseStage(changed.model_copy(update={"net": net})), config(), CPU)
        made.stage.net.out_gain.data.fill_(1.0)
        torch.manual_seed(len(losses))  # what the process drew before must not matter
        losses.append(made.update([global_batch(0 if same else len(losses))], 1e-2).loss)
    assert (losses[0] == losses[1]) == same


def test_split_covers_a_batch_in_order():
    batch = global_batch(0)
    parts = split(batch, 3)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert isinstance(parts[0], Batch)
    assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
