"""The prune stage with everything that is registered."""

from dataclasses import replace

import numpy as np
import pytest

from app.core.states import Stage
from tests.worker.pipeline.digits_job import make_spec
from worker.numerics import seed_everything
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.prune import run_prune
from worker.pipeline.pruning import read_history, read_masks, read_sensitivity
from worker.pruning.registry import entries

# Network slimming ranks channels by the BatchNorm behind them, and there is none behind the last layer.
ROWS = {"bn_scale": [{"match": "linear.weight", "set": {"exclude": True}}]}

# What learns while training has nothing to say before; the API asks for a finetune.
DATA_IS_ENOUGH = [name for name, entry in entries("criterion").items() if "training" not in entry.needs]


@pytest.fixture(scope="module")
def small_uploads(uploads, tmp_path_factory):
    """Uploads with 64 training samples, since some criteria look at each sample on its own."""
    path = tmp_path_factory.mktemp("small") / "train.npz"
    with np.load(uploads.train) as train:
        np.savez(path, x=train["x"][:64], y=train["y"][:64])
    return replace(uploads, train=path)


def prune(uploads, work, **recipe):
    """Run the stage alone; return what it says and its folder."""
    spec = make_spec(recipe={"target": {"value": 0.6}, **recipe}, finetune=None)
    job = Job(work, uploads.runner_input().model_copy(update={"spec": spec}))
    folder = job.folder(Stage.PRUNE)
    folder.clear()
    seed_everything(0)
    silent = ProgressReporter(lambda message: None, Stage.PRUNE, has_finetune=False)
    return run_prune(job, folder, silent), folder


@pytest.mark.parametrize("criterion", DATA_IS_ENOUGH)
def test_every_criterion_prunes_the_exact_number_of_weights_and_the_same_ones_again(
    small_uploads, tmp_path, criterion
):
    recipe = {"criterion": {"name": criterion}, "layers": ROWS.get(criterion, [])}
    (data, folder), (_, again) = (prune(small_uploads, tmp_path / name, **recipe) for name in ("a", "b"))
    assert data["pruned"] == round(0.6 * data["masked"])
    state, masks = folder.read_tensors("state.safetensors"), read_masks(folder)
    assert all(not state[name][~mask].any() for name, mask in masks.items())
    assert masks == read_masks(again)


@pytest.mark.parametrize("allocation", entries("allocation"))
def test_every_allocation_prunes_the_number_of_weights_asked_for(small_uploads, tmp_path, allocation):
    data, folder = prune(small_uploads, tmp_path, allocation={"name": allocation})
    # Where each layer rounds on its own, eight layers may miss by half a weight each.
    assert data["pruned"] == pytest.approx(round(0.6 * data["masked"]), abs=4)
    assert set(read_sensitivity(folder)) == (
        set(read_masks(folder)) if allocation == "sensitivity" else set()
    )


@pytest.mark.parametrize(("metric", "dense"), [("parameters", 19_074), ("macs", 189_248)])
def test_a_target_of_size_is_not_exceeded_and_nearly_used_up(uploads, tmp_path, metric, dense):
    _, folder = prune(uploads, tmp_path, target={"metric": metric, "value": dense // 2})
    positions = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "linear": 1}
    cost = {name: positions[name.split(".")[0]] if metric == "macs" else 1 for name in read_masks(folder)}
    saved = sum(cost[name] * int((~mask).sum()) for name, mask in read_masks(folder).items())
    assert 0 <= dense // 2 - (dense - saved) < 64


def test_rounds_without_training_climb_to_the_target_of_size(uploads, tmp_path):
    _, folder = prune(
        uploads, tmp_path, target={"metric": "parameters", "value": 6000}, schedule={"name": "linear"}
    )
    history = read_history(folder)
    assert len(history) == 20
    for row in history:
        assert row.sparsity == pytest.approx(row.target, abs=1e-3)
