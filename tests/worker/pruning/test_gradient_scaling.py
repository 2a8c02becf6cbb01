"""A GradScaler, which multiplies the loss and skips steps, changes nothing of what is learned."""

import copy
from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.loop import network, zeros
from tests.worker.pruning.networks import batches
from worker.pruning import Pruner
from worker.pruning.errors import NonfiniteScores

STEPS = 20
GRADUAL = {"target": {"value": 0.7}, "schedule": {"name": "cubic"}}
MOVEMENT = {**GRADUAL, "criterion": {"name": "movement"}}
SOFT = {**GRADUAL, "criterion": {"name": "movement_soft", "params": {"score_learning_rate": 0.3}}}
RIGL = {"target": {"value": 0.7}, "schedule": {"name": "rigl", "params": {"interval_fraction": 0.1}}}
LEARNED = {"movement": MOVEMENT, "movement_soft": SOFT}
# The first step, after which the first round of what is learned is due, and one before an exchange of rigl.
OVERFLOWING = (0, 5)
every_kind = pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])


class Run:
    """A training that can be gone on with; without a scaler, it leaves out the steps that would overflow."""

    def __init__(self, recipe: dict[str, Any], *, fused: bool, is_scaled: bool = True) -> None:
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02, weight_decay=0.1, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=is_scaled)
        self.pruner = Pruner(self.model, recipe, steps=STEPS)
        self.is_scaled = is_scaled

    def train(self, steps: range, overflowing: Collection[int] = OVERFLOWING) -> "Run":
        self.pruner.attach(self.optimizer)
        for step in steps:
            (x, y), *_ = batches(self.model, step)
            self.scaler.scale(nn.functional.cross_entropy(self.model(x), y)).backward()
            if step in overflowing and self.is_scaled:
                self.model.fc1.weight.grad[0, 0] = torch.inf
            if self.is_scaled or step not in overflowing:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            self.pruner.step()
            self.optimizer.zero_grad()
            assert zeros(self.model, self.pruner)
        return self


@every_kind
@pytest.mark.parametrize("recipe", LEARNED.values(), ids=LEARNED)
def test_what_is_learned_is_the_same_as_without_it(recipe: dict[str, Any], fused: bool) -> None:
    scaled = Run(recipe, fused=fused).train(range(STEPS))
    plain = Run(recipe, fused=fused, is_scaled=False).train(range(STEPS))
    assert scaled.pruner.masks.sparsity > 0.1
    assert scaled.pruner.history == plain.pruner.history
    assert scaled.pruner.masks == plain.pruner.masks
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(scaled.model.state_dict()[name], tensor)


@every_kind
def test_an_exchange_waits_for_gradients_that_are_finite(fused: bool) -> None:
    run = Run(RIGL, fused=fused).train(range(5))
    before = run.pruner.masks
    run.train(range(5, 6))
    assert run.pruner.masks == before
    run.train(range(6, 7))
    assert run.pruner.masks != before
    run.train(range(7, STEPS))
    assert [reached.round for reached in run.pruner.history] == list(run.pruner.rounds)


@pytest.mark.parametrize("recipe", [MOVEMENT, RIGL], ids=["movement", "rigl"])
def test_a_run_that_stops_while_a_round_waits_goes_on_to_the_same_bits(recipe: dict[str, Any]) -> None:
    stop = 1 if recipe is MOVEMENT else 6
    run, again = (Run(recipe, fused=True) for _ in range(2))
    run.train(range(stop))
    assert len(run.pruner.history) < sum(planned.step <= stop for planned in run.pruner.rounds)

    again.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    again.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    again.scaler.load_state_dict(run.scaler.state_dict())
    again.pruner.load_state_dict(run.pruner.state_dict())

    one, other = run.train(range(stop, STEPS)), again.train(range(stop, STEPS))
    assert other.pruner.history == one.pruner.history
    final: dict[str, Tensor] = one.model.state_dict()
    assert all(torch.equal(tensor, final[name]) for name, tensor in other.model.state_dict().items())


def test_gradients_that_are_not_finite_after_a_step_that_was_made_are_refused() -> None:
    run = Run(RIGL, fused=False, is_scaled=False).train(range(1), overflowing=())
    (x, y), *_ = batches(run.model, 1)
    nn.functional.cross_entropy(run.model(x), y).backward()
    run.optimizer.step()
    run.model.fc1.weight.grad[0, 0] = torch.nan
    with pytest.raises(NonfiniteScores, match=r"fc1\.weight"):
        run.pruner.step()
