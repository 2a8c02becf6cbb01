"""The whole service as real processes, on SQLite and on Postgres, with a model and a dataset in it."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import digits
from tests.support.postgres import PostgresServer
from tests.support.service import Service, wait_for

TERMINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Workbench:
    """A running service, a client for it, and the ids of what was uploaded."""

    service: Service
    http: httpx.Client
    model_id: str
    dataset_id: str

    def submit(self, **changes) -> str:
        answer = self.http.post("/v1/jobs", json=digits.job_spec(self.model_id, self.dataset_id, **changes))
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def finish(self, job_id: str, *, within_s: float = 120.0) -> dict:
        wait_for(lambda: self.job(job_id)["is_terminal"], f"{job_id} to end", within_s=within_s)
        return self.job(job_id)

    def events(self, job_id: str) -> list[dict]:
        return self.http.get(f"/v1/jobs/{job_id}/events", params={"limit": 100}).json()["data"]

    def digest(self, job_id: str, name: str = "model.safetensors") -> str:
        artifacts = self.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
        return next(a["sha256"] for a in artifacts if a["name"] == name)

    def attempts_ended(self, job_id: str) -> list[str]:
        attempts = self.http.get(f"/v1/jobs/{job_id}/attempts").json()["data"]
        return [attempt["ended"] for attempt in attempts]

    def wait_for_event(self, job_id: str, event: str, *, stage: str | None = None, times: int = 1) -> None:
        def happened() -> bool:
            found = [e for e in self.events(job_id) if e["type"] == event and stage in (None, e["stage"])]
            return len(found) >= times

        wait_for(happened, f"{event} of {job_id}")


# Of tests in which the database decides nothing that tests elsewhere do not try on both.
on_sqlite = pytest.mark.parametrize("bench", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("bench", ["postgres"], indirect=True)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    folder = tmp_path_factory.mktemp("service")
    url = f"sqlite:///{folder / 'secateur.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create_database(f"e{uuid.uuid4().hex}")
    yield from _workbench(folder, url)


@pytest.fixture(scope="module")
def scaled_bench(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    url = postgres.create_database(f"e{uuid.uuid4().hex}")
    yield from _workbench(tmp_path_factory.mktemp("service"), url)


def _workbench(folder: Path, database_url: str) -> Iterator[Workbench]:
    service = Service(folder, database_url)
    try:
        service.start()
        with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http:
            model = digits.upload_model(http)
            assert model.status_code == 201, model.text
            dataset = digits.upload_dataset(http, folder)
            assert dataset.status_code == 201, dataset.text
            model_id = model.json()["id"]
            status = wait_for(lambda: settled_model(http, model_id), "the model check")
            assert status["status"] == "ready", status
            yield Workbench(service, http, model_id, dataset.json()["id"])
    finally:
        service.stop()


def settled_model(http: httpx.Client, model_id: str) -> dict | None:
    model = http.get(f"/v1/models/{model_id}").json()
    return model if model["status"] != "validating" else None
