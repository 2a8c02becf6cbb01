"""The training loop around a pruned model."""

import pytest
import torch

from app.core.errors import DivergedTraining
from app.core.finetune import Distillation
from tests.worker.training.recoveries import (
    GRADUAL,
    ONE_SHOT,
    make_model,
    make_settings,
    make_training,
    recover,
)
from worker.datasets.images import ImageSplit
from worker.datasets.splits import cut_evenly
from worker.pruning import Pruner
from worker.training.loop import Loop


def make_loop(recipe=ONE_SHOT, **settings):
    module, training = make_model(), make_training(make_settings(**settings))
    pruner = Pruner(module, recipe, steps=training.steps)
    return Loop(module, training, pruner=pruner, teacher=None), module, pruner


def run(loop: Loop) -> list:
    results = []
    while not loop.is_done:
        results.append(loop.advance()[0])
    return results


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("recipe", [ONE_SHOT, GRADUAL])
def test_pruned_weights_and_what_the_optimizer_remembers_of_them_stay_zero(optimizer, recipe):
    loop, module, pruner = make_loop(recipe, optimizer=optimizer)
    run(loop)
    remembered = loop.state_dict()["optimizer"]
    # An optimizer numbers its parameters group by group: those that decay come first.
    decayed = [name for name, parameter in module.named_parameters() if parameter.ndim > 1]
    for name, mask in pruner.masks.items():
        assert not module.get_parameter(name)[~mask].any()
        values = [v for v in remembered[str(decayed.index(name))].values() if v.shape == mask.shape]
        assert values
        assert not any(value[~mask].any() for value in values)
    assert pruner.masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_model_learns():
    losses = [result.loss for result in run(make_loop(max_steps=30)[0])]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("distillation", [None, Distillation(), Distillation(hidden_states=2.0)])
def test_the_same_seed_gives_the_same_bits(optimizer, precision, distillation):
    settings = {
        "optimizer": optimizer,
        "augment": True,
        "precision": precision,
        "distillation": distillation,
        "max_steps": 4,
    }
    one, two = (recover(**settings).tensors() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_was_drawn_before_a_training_changes_nothing_in_it():
    one = recover(augment=True, max_steps=4).tensors()
    torch.manual_seed(77)
    two = recover(augment=True, max_steps=4).tensors()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_steps_are_those_of_the_epochs():
    results = run(make_loop(max_steps=None, epochs=2, batch_size=40)[0])
    assert [result.step for result in results] == [0, 1, 2, 3]  # 96 // 40 = 2 an epoch


def test_accumulated_batches_are_one_step():
    assert len(run(make_loop(max_steps=None, epochs=2, batch_size=10, accumulate=4)[0])) == 4


def take_one_plain_step(**settings):
    """Return the state after a step of plain descent, which shows the gradient."""
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "warmup_fraction": 0.0}
    loop, module, _ = make_loop({"target": {"value": 0.0}}, max_steps=1, **plain, **settings)
    # In evaluation mode nothing couples the samples of a batch.
    module.train = lambda mode=True: module
    run(loop)
    return module.state_dict()


def test_two_batches_accumulated_are_the_mean_of_their_gradients():
    one, four = take_one_plain_step(batch_size=32), take_one_plain_step(batch_size=8, accumulate=4)
    assert all(torch.allclose(one[name], four[name], atol=1e-6) for name in one)


def test_a_batch_that_does_not_fit_into_memory_is_computed_in_parts_of_the_same_gradient(monkeypatch):
    whole = take_one_plain_step(batch_size=32)
    taken, take = [], ImageSplit.take

    def note(self, indices, **varied):
        taken.append(len(indices))
        return take(self, indices, **varied)

    monkeypatch.setattr(ImageSplit, "take", note)
    monkeypatch.setattr(ImageSplit, "cut", lambda self, indices: cut_evenly(indices, most=12))
    parts = take_one_plain_step(batch_size=32)
    assert taken == [11, 11, 10]
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.98])
def test_a_clipped_step_is_as_long_as_the_rate_times_the_norm_at_any_sparsity(sparsity):
    settings = {
        "max_steps": 1,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "warmup_fraction": 0.0,
    }
    recipe = {"target": {"value": sparsity}}
    loop, module, pruner = make_loop(recipe, clip_norm=1e-2, learning_rate=0.5, **settings)
    assert pruner.masks.sparsity == pytest.approx(sparsity, abs=1e-2)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    run(loop)
    moved = (
        sum(float((p.detach() - before[name]).square().sum()) for name, p in module.named_parameters()) ** 0.5
    )
    assert moved == pytest.approx(0.5 * 1e-2, rel=1e-3)


def test_hidden_states_change_what_is_learned():
    with_them, without = (
        recover(max_steps=4, distillation=Distillation(hidden_states=h)).tensors() for h in (5.0, None)
    )
    assert any(not torch.equal(with_them[name], without[name]) for name in without)


def test_a_loss_that_is_no_number_ends_the_training_before_the_weights_are_touched():
    loop, module, _ = make_loop()
    with torch.no_grad():
        module.linear.bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in module.named_parameters()}
    with pytest.raises(DivergedTraining, match=r"became nan at step 1 of 12, at a learning rate of 0\.05"):
        loop.advance()
    assert all(
        torch.equal(p.nan_to_num(), before[name].nan_to_num()) for name, p in module.named_parameters()
    )
