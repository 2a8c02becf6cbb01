"""A worker's context over a migrated SQLite database, with digits uploaded."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.core import jobs, schema
from app.core.config import Settings
from app.core.db import make_engine
from app.core.ids import new_id
from app.core.spec import JobSpec
from app.core.tables import Dataset, Model
from benchmarks.digits import load_splits, save_split
from tests.support import digits
from worker.forks.client import ForkServer, Starter
from worker.supervision.context import WorkerContext, make_context
from worker.supervision.process import make_starter

# One server for the runners of all tests: an interpreter of its own for each takes seconds.
RUNNERS = make_starter("worker.runner", threads=1)
SCRIPTED = "scripted_runner"
_SCRIPTED_CODE = """
import runpy, sys

def main(arguments):
    runpy.run_path({script!r})
    return 0

if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.fixture(scope="session", autouse=True)
def runners() -> Iterator[None]:
    yield
    _end(RUNNERS)


@pytest.fixture
def context(tmp_path) -> WorkerContext:
    return migrate_and_make_context(Settings(data_dir=tmp_path / "data", beat_s=0.2, kill_grace_s=1.0))


def migrate_and_make_context(settings: Settings) -> WorkerContext:
    schema.upgrade(make_engine(settings.database_url))
    return replace(make_context(settings), starters={None: RUNNERS})


def add_model(context: WorkerContext, data: bytes, architecture: dict = digits.ARCHITECTURE) -> str:
    with context.store.stage() as staged:
        staged.write(data)
        sha256 = staged.commit()
    model = Model(
        id=new_id("mdl"),
        name="net",
        format="safetensors",
        manifest={"architecture": architecture},
        files={"weights": {"name": "model.safetensors", "sha256": sha256, "size_bytes": len(data)}},
        sha256=sha256,
        size_bytes=len(data),
        status="validating",
        parameters=1,
    )
    with context.sessions.begin() as session:
        session.add(model)
    return model.id


@pytest.fixture
def dataset_id(context, tmp_path) -> str:
    files = {}
    for name, split in zip(("train", "test"), load_splits(), strict=True):
        path = save_split(split, tmp_path / f"{name}.npz")
        sha256 = context.store.add_file(path)
        files[name] = {"name": path.name, "sha256": sha256, "size_bytes": path.stat().st_size}
    dataset = Dataset(
        id=new_id("dst"),
        name="digits",
        task="image-classification",
        format="npz",
        manifest={"layout": "NCHW"},
        files=files,
        splits={},
        sha256="0" * 64,
        size_bytes=1,
    )
    with context.sessions.begin() as session:
        session.add(dataset)
    return dataset.id


@pytest.fixture
def submit(context, dataset_id):
    """Return a function that queues a job for a model, as the API would."""

    def submit(model_id: str, **changes) -> str:
        given = digits.job_spec(model_id, dataset_id, **changes)
        spec = JobSpec.model_validate_json(json.dumps(given)).model_dump(mode="json")
        new = jobs.NewJob(
            id=new_id("job"),
            name=None,
            model_id=model_id,
            dataset_id=dataset_id,
            spec=given,
            resolved_spec=spec,
            spec_sha256="0" * 64,
            labels={},
            max_attempts=spec["resources"]["max_attempts"],
        )
        with context.sessions.begin() as session:
            return jobs.create(session, new, hint_again_s=30.0).id

    return submit


@pytest.fixture
def write_runner(context, monkeypatch, tmp_path):
    """Return a function that makes a script what the context's runners run."""
    folder = tmp_path / "scripted"
    folder.mkdir()
    script = folder / "script.py"
    (folder / f"{SCRIPTED}.py").write_text(_SCRIPTED_CODE.format(script=str(script)))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    starter = make_starter(SCRIPTED, threads=1)
    monkeypatch.setitem(context.starters, None, starter)
    yield script.write_text
    _end(starter)


def _end(starter: Starter) -> None:
    if isinstance(starter, ForkServer):
        starter.close()


@pytest.fixture
def in_background():
    """Run a function in a thread that is joined when the test ends."""
    threads = []

    def run(function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        threads.append(thread)
        return thread

    yield run
    for thread in threads:
        thread.join()
