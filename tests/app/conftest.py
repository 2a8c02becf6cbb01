"""The HTTP service over real databases and a real store, without a worker."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from starlette.testclient import TestClient

from app.api.dependencies import Parts
from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine
from app.main import create_app
from tests.support import uploads
from tests.support.live import LiveServer

LIMIT_BYTES = 4_000_000

# A machine that is busy with other tests is slow now and then, which says nothing about an example.
hypothesis.settings.register_profile("busy-machine", deadline=None)
hypothesis.settings.load_profile("busy-machine")


def make_settings(folder: Path, database_url: str, **changes: object) -> Settings:
    values = {
        "data_dir": folder,
        "database_url": database_url,
        "allowed_hosts": ["testserver"],
        "max_upload_bytes": LIMIT_BYTES,
        "event_poll_s": 0.02,
        "sse_heartbeat_s": 0.2,
        "metrics_cache_s": 0.0,
    }
    settings = Settings(**(values | changes))
    engine = make_engine(settings.database_url)
    schema.upgrade(engine)
    engine.dispose()
    return settings


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a service on each kind of database, unless its module names those that matter."""
    if "settings" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "DATABASES", ("sqlite", "postgres"))
        metafunc.parametrize("settings", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("api")
    url = f"sqlite:///{folder / 'secateur.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create_database(f"a{uuid.uuid4().hex}")
    return make_settings(folder, url)


@pytest.fixture(scope="session")
def client(settings: Settings) -> Iterator[TestClient]:
    """One service for all tests: none may count on being alone with its rows.

    A 500 comes as an answer, as over the network, and not as an exception.
    """
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def parts(client: TestClient) -> Parts:
    return client.app.state.parts


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Make a service of one's own on SQLite, with other settings."""
    with ExitStack() as stack:

        def start(**changes: object) -> TestClient:
            made = make_settings(tmp_path, f"sqlite:///{tmp_path / 'secateur.db'}", **changes)
            return stack.enter_context(TestClient(create_app(made), raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="session")
def live(settings: Settings) -> Iterator[LiveServer]:
    """The same service behind a real socket."""
    with LiveServer(create_app(settings)) as server:
        yield server


@pytest.fixture(scope="session")
def model_id(client: TestClient, parts: Parts) -> str:
    """A model that is ready."""
    made = uploads.upload_model(client)
    assert made.status_code == 201, made.text
    uploads.make_ready(parts, made.json()["id"])
    return made.json()["id"]


@pytest.fixture(scope="session")
def dataset_id(client: TestClient) -> str:
    made = uploads.upload_dataset(client)
    assert made.status_code == 201, made.text
    return made.json()["id"]


@pytest.fixture
def job_id(client: TestClient, model_id: str, dataset_id: str) -> str:
    """A queued job."""
    made = client.post("/v1/jobs", json=uploads.job_spec(model_id, dataset_id))
    assert made.status_code == 202, made.text
    return made.json()["id"]


@pytest.fixture
def done_job_id(job_id: str, parts: Parts, tmp_path: Path) -> str:
    """A job that has succeeded, with a result of each kind."""
    uploads.finish_job(parts, job_id, tmp_path)
    return job_id
