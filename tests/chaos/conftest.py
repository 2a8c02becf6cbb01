"""One scaled cluster for the tests that hurt it in one known way each."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from tests.chaos import arena, light_job
from tests.chaos.evidence import Evidence
from tests.chaos.journal import Journal
from tests.chaos.oracle import judge
from tests.chaos.site import Site
from tests.chaos.workload import light_digest, upload_model
from tests.support.postgres import PostgresServer
from tests.support.service import wait_for


@dataclass
class Bench:
    """A site with a model in it, a client that insists, and the oracle."""

    site: Site
    model_id: str
    journal: Journal
    asking: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20.0, trust_env=False))

    def spec(self, key: str, *, steps: int = 20, way: str = "well", **resources: object) -> dict:
        return light_job.make_spec(self.model_id, seed=1, steps=steps, way=way, key=key, **resources)

    def submit(self, key: str, **changes: object) -> str:
        """Create a job as a client does that wants an answer: again and again, under one key."""
        spec = self.spec(key, **changes)
        self.journal.write("asked", key=key, spec=spec)
        answer = self.insist("POST", "/v1/jobs", json=spec, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        self.journal.write("created", key=key, job_id=answer.json()["id"], spec=spec)
        return answer.json()["id"]

    def insist(self, method: str, path: str, **request: object) -> httpx.Response:
        urls = self.site.cluster.urls
        tries = iter(range(1_000_000))

        def ask() -> httpx.Response | None:
            url = urls[next(tries) % len(urls)]
            try:
                answer = self.asking.request(method, f"{url}{path}", **request)
            except httpx.HTTPError:
                return None
            return answer if answer.status_code not in (409, 503) else None

        return wait_for(ask, f"an answer to {method} {path}", within_s=90.0)

    def http(self) -> httpx.Client:
        """Return a client of the first API, for tests in which that one lives."""
        return httpx.Client(base_url=self.site.cluster.urls[0], timeout=60.0, trust_env=False)

    def job(self, job_id: str) -> dict:
        return self.insist("GET", f"/v1/jobs/{job_id}").json()

    def finish(self, job_id: str) -> dict:
        wait_for(lambda: self.job(job_id)["is_terminal"], f"{job_id} to end", within_s=120.0)
        return self.job(job_id)

    def wait_for_progress(self, job_id: str) -> None:
        wait_for(lambda: self.job(job_id)["progress"]["step"] > 0, f"progress of {job_id}")

    def judge(self) -> list:
        """Wait until nothing is left to do, and return what the oracle finds."""
        self.site.cluster.heal()

        def breaches() -> list:
            evidence = Evidence(self.site.cluster, self.journal, light_digest)
            return judge(evidence)

        try:
            wait_for(lambda: not breaches(), "everything to settle", within_s=30.0)
        except TimeoutError:
            return breaches()
        return []


@pytest.fixture(scope="module")
def chaos_bench(postgres: PostgresServer) -> Iterator[Bench]:
    with arena.scaled(postgres, apis=1, workers=2) as site:
        bench = Bench(site, "", Journal(site.cluster.folder / "journal.jsonl"))
        with bench.http() as http:
            bench.model_id = upload_model(http)
        yield bench
        bench.asking.close()
        bench.journal.close()
