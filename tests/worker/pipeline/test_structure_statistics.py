"""What BatchNorm normalises by in a model that was cut and not trained."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.digits import Split, load_splits, save_split
from tests.worker.pipeline.conftest import run_job
from tests.worker.pipeline.test_structure import make_spec
from worker.measure.size import digest_file
from worker.models.registry import build
from worker.protocol import DatasetInput


def test_the_cut_model_is_normalised_by_what_it_puts_out_itself(uploads, tmp_path):
    """Without training: statistics of the dense network are those of sums with more channels in them."""
    target = {"metric": "macs", "value": 160_000}
    run = run_job(tmp_path / "work", make_spec(uploads, structure={"target": target}))
    assert run.report.structure.batchnorm_samples == 512
    tensors = load_file(run.output / "artifacts" / "model.safetensors")
    stale = load_file(uploads.model)
    same = [n for n in tensors if n.endswith("running_var") and torch.equal(tensors[n], stale[n])]
    assert not same


def train_on(uploads, path: Path, train: Split) -> DatasetInput:
    files = {"train": save_split(train, path), "test": uploads.test}
    return uploads.dataset_input(files=files, sha256={name: digest_file(at) for name, at in files.items()})


def test_a_last_batch_of_one_sample_does_not_count_as_a_full_one(uploads, tmp_path):
    train = load_splits()[0]
    dataset = train_on(uploads, tmp_path / "train.npz", Split(train.x[:129], train.y[:129]))
    given = make_spec(uploads, structure={"target": {"metric": "macs", "value": 160_000}})
    run = run_job(tmp_path / "work", given.model_copy(update={"dataset": dataset}))
    assert run.report.structure.batchnorm_samples == 128


def test_one_sample_to_train_on_measures_no_statistics(uploads, tmp_path):
    """The last maps of this network have one pixel: a single sample has no variance in them."""
    params = {"in_channels": 1, "image_size": 8, "width": 4, "classes": 10}
    architecture = {"library": "secateur", "name": "resnet-18", "params": params}
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_file(build(architecture).module.state_dict(), path)
    model = uploads.model_input(
        architecture=architecture, files={"weights": path}, sha256={"weights": digest_file(path)}
    )
    train = load_splits()[0]
    dataset = train_on(uploads, tmp_path / "train.npz", Split(train.x[:1], train.y[:1]))
    given = make_spec(uploads, structure={"target": {"metric": "parameters", "value": 40_000}})
    run = run_job(tmp_path / "work", given.model_copy(update={"model": model, "dataset": dataset}))
    assert run.report.structure.batchnorm_samples == 0


def test_what_was_not_cut_keeps_its_statistics(uploads, tmp_path):
    target = {"metric": "parameters", "value": 10_000_000}
    run = run_job(tmp_path / "work", make_spec(uploads, structure={"target": target}))
    assert run.report.structure.batchnorm_samples == 0
    tensors, dense = load_file(run.output / "artifacts" / "model.safetensors"), load_file(uploads.model)
    assert all(torch.equal(tensors[name], dense[name]) for name in dense)
