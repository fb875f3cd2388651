"""The local engine: accumulation changes nothing, what is not finite is not applied, a saved state goes on bit for bit."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Batch
from stages.base import BaseStage
from stages.stage import Stage
from stages.training.engine import LocalEngine, NonFiniteError, Update
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
    poison(made.stage, where, value)
    with pytest.raises(NonFiniteError, match=r"loss .*, gradient norm"):
        train(made, 4, 1, 2)
    assert_close(state(made.stage), before, rtol=0, atol=0)
    assert_close(made.optimizer.state_dict()["state"], moments["state"], rtol=0, atol=0)


def poison(stage: BaseStage, where: str, value: float) -> None:
    if where == "gradient":
        stage.net.conv_in.weight.register_hook(lambda gradient: gradient * value)
    else:
        stage.register_forward_hook(
            lambda _stage, _inputs, losses: type(losses)(
                loss=losses.loss * value, per_image=losses.per_image, sigma=losses.sigma
            )
        )


def test_a_saved_state_goes_on_bit_for_bit(tmp_path):
    whole = engine()
    train(whole, 4)
    first = engine()
    train(first, 4, last=3)
    first.save(tmp_path)
    second = LocalEngine(BaseStage(first.stage.config), config(), CPU)  # other weights, to be replaced
    second.load(tmp_path)
    train(second, 4, 3)
    assert_close(state(second.stage), state(whole.stage), rtol=0, atol=0)


def test_a_checkpoint_of_another_engine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="written by another engine; resume with --engine deepspeed"):
        engine().load(tmp_path)


def test_a_checkpoint_that_is_a_pickle_of_code_is_not_executed(tmp_path):
    """`local.pt` is read with weights_only: the sentinel's function is not called."""
    import pickle

    sentinel = tmp_path / "executed"
    torch.save({"stage": Evil(str(sentinel)), "optimizer": {}}, tmp_path / "local.pt")
    with pytest.raises(pickle.UnpicklingError):
        engine().load(tmp_path)
    assert not sentinel.exists()


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


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
