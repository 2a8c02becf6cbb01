"""What the controls of a lottery ticket start from."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.core.states import Stage
from tests.worker.pipeline.digits_job import Uploads
from worker.measure.size import digest_file
from worker.models.registry import build
from worker.pipeline.controls import Ticket, start_control
from worker.pipeline.job import BATCHNORM_NAME, REMOVAL_NAME, Job
from worker.pipeline.pruning import make_pruner
from worker.pipeline.training import make_training
from worker.pruning import MaskSet
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.surgery import Removal, dump_removal

RESNET = {
    "library": "secateur",
    "name": "resnet-20",
    "params": {"in_channels": 1, "image_size": 8, "classes": 10},
}
TWO_OF_FOUR = {"name": "n_m", "params": {"keep": 2, "of": 4}}


def make_ticket(job: Job) -> Ticket:
    """Prune a job's model as a ticket of no training."""
    training = make_training(job, job.spec.finetune, job.task, is_halved=False)
    pruner = make_pruner(job, job.read_start().network, steps=training.steps)
    masks = pruner.update()
    return Ticket(training, (), None, None, masks, pruner.state_dict(), None)


def count_kept(masks: MaskSet) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def check_random_mask(job: Job) -> None:
    ticket = make_ticket(job)
    network, pruner = start_control(job, "random_mask", ticket)
    assert count_kept(pruner.masks) == count_kept(ticket.masks)
    assert pruner.masks != ticket.masks
    start = job.read_start().network.module.state_dict()
    weights = network.module.state_dict()
    for name, tensor in start.items():
        assert torch.equal(weights[name], tensor * pruner.masks.get(name, torch.ones_like(tensor)))


@pytest.mark.parametrize(
    "pattern",
    [
        {"name": "unstructured"},
        TWO_OF_FOUR,
        {"name": "channel"},
        {"name": "block", "params": {"shape": [2, 2]}},
    ],
)
def test_a_random_mask_keeps_as_many_weights_of_every_layer_elsewhere(uploads, tmp_path, pattern):
    recipe = {
        "target": {"value": 0.5},
        "pattern": pattern,
        "layers": [{"match": "conv1", "set": {"exclude": True}}],
    }
    check_random_mask(Job(tmp_path, uploads.runner_input({"recipe": recipe})))


def test_a_random_mask_follows_rows_that_take_an_exclusion_back(uploads, tmp_path):
    rows = [{"match": "*", "set": {"exclude": True}}, {"match": "layer3*", "set": {"exclude": False}}]
    recipe = {"target": {"value": 0.5}, "pattern": TWO_OF_FOUR, "layers": rows}
    check_random_mask(Job(tmp_path, uploads.runner_input({"recipe": recipe})))


def test_a_random_mask_of_a_model_without_a_block_keeps_what_each_of_its_layers_does(uploads, tmp_path):
    check_random_mask(make_job_without_a_block(uploads, tmp_path, {"target": {"value": 0.5}}))


def make_job_without_a_block(uploads: Uploads, tmp_path: Any, recipe: dict[str, Any]) -> Job:
    """Make a job whose stage prune left the second of three blocks out."""
    torch.manual_seed(0)
    module = build({"name": RESNET["name"], "params": RESNET["params"]}).module
    path = tmp_path / "model.safetensors"
    save_file(module.state_dict(), path)
    model = uploads.model_input(
        architecture=RESNET, files={"weights": path}, sha256={"weights": digest_file(path)}
    )
    structure = {"kinds": ["block"], "target": {"metric": "parameters", "value": 1}}
    job = Job(tmp_path, uploads.runner_input({"recipe": recipe, "structure": structure}, model=model))
    folder = job.folder(Stage.PRUNE)
    folder.begin({"job": job.digest})
    folder.write_json(REMOVAL_NAME, dump_removal(Removal({}, {}, (Depth("layer1", (0, 2), 3),))))
    folder.write_tensors(BATCHNORM_NAME, {})
    return job
