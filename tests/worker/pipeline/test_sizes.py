"""What a cut model comes to: timed where the spec says, counted as the file that is written."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.core.errors import PruningRefused
from app.core.spec import Latency
from tests.support.huggingface import make_llama_folder, make_vit_folder, model_input
from tests.worker.pipeline.test_structure import STRUCTURE, make_spec
from worker.formats.registry import read_model
from worker.pipeline.job import Job
from worker.pipeline.sizes import list_measures, time_again
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.shrinking import Shrunk
from worker.pruning.removal.surgery import Removal, remove

TIMED = STRUCTURE | {"target": {"metric": "latency_ms", "value": 1.0}}


def make_job(uploads, work) -> Job:
    """A job that computes on a device that nothing can be timed on."""
    job = Job(work, make_spec(uploads, structure=TIMED, evaluation={"latency": {"repeats": 10}}))
    job.device = torch.device("meta")
    return job


def test_a_latency_is_that_of_the_device_that_is_asked_for_not_of_the_jobs(uploads, tmp_path):
    job = make_job(uploads, tmp_path)
    loaded = read_model(job.given.model)
    module = loaded.network.module
    before = [(id(parameter), parameter.device.type) for parameter in module.parameters()]
    assert list_measures(job, loaded)["latency_ms"](module) > 0.0
    shrunk = time_again(job, loaded.network, Shrunk(Removal({}, {}), (), (), before=0.0, after=0.0))
    assert min(shrunk.before, shrunk.after) > 0.0
    assert [(id(parameter), parameter.device.type) for parameter in module.parameters()] == before


def test_a_model_that_lies_elsewhere_is_timed_as_a_copy_and_stays_where_it_is(uploads, tmp_path):
    job = make_job(uploads, tmp_path)
    elsewhere = Latency.model_construct(runtime="torch", device="meta", batch_size=1, repeats=10)
    evaluation = job.spec.evaluation.model_copy(update={"latency": elsewhere})
    job.spec = job.spec.model_copy(update={"evaluation": evaluation})
    loaded = read_model(job.given.model)
    before = [(id(parameter), parameter.device.type) for parameter in loaded.network.module.parameters()]
    assert list_measures(job, loaded)["latency_ms"](loaded.network.module) > 0.0
    time_again(job, loaded.network, Shrunk(Removal({}, {}), (), (), before=0.0, after=0.0))
    after = [(id(parameter), parameter.device.type) for parameter in loaded.network.module.parameters()]
    assert after == before
    assert {device for _, device in after} == {"cpu"}


def test_a_latency_on_a_device_that_is_not_there_is_refused_before_the_search(uploads, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    latency = {"device": "cuda", "repeats": 10}
    job = Job(tmp_path, make_spec(uploads, structure=TIMED, evaluation={"latency": latency}))
    with pytest.raises(PruningRefused, match="this worker has no such device"):
        list_measures(job, job.read_dense())
    other = Job(tmp_path, make_spec(uploads, structure=STRUCTURE, evaluation={"latency": latency}))
    assert "latency_ms" not in list_measures(other, other.read_dense())


@pytest.mark.parametrize("kept", [tuple(range(12)), (0, 2, 3, 11)], ids=["whole", "without_blocks"])
def test_bytes_are_those_of_a_file_under_the_names_of_the_upload(uploads, tmp_path, kept):
    folder = make_vit_folder(tmp_path / "vit", num_hidden_layers=12)
    given = make_spec(uploads, structure=STRUCTURE).model_copy(update={"model": model_input(folder)})
    job = Job(tmp_path / "work", given)
    loaded = read_model(given.model)
    measure_bytes = list_measures(job, loaded)["size_bytes"]
    job.removal = Removal({}, {}, (Depth("vit.layers", kept, 12),))
    remove(loaded.network.module, job.removal)
    written = tmp_path / "written.safetensors"
    tensors = job.select_exported(loaded.network.module.state_dict())
    save_file(tensors, written, metadata={"format": "pt"})
    assert measure_bytes(loaded.network.module) == written.stat().st_size


def test_bytes_are_those_of_a_file_that_names_a_tied_weight_as_the_upload_does(uploads, tmp_path):
    folder = make_llama_folder(tmp_path / "llama", tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    given = make_spec(uploads, structure=STRUCTURE).model_copy(update={"model": model_input(folder)})
    loaded = read_model(given.model)
    measure_bytes = list_measures(Job(tmp_path / "work", given), loaded)["size_bytes"]
    assert measure_bytes(loaded.network.module) == path.stat().st_size
