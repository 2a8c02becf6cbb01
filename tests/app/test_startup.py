"""What keeps a process from starting: one sentence that names it, no password, no stack trace, exit 1."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine
from app.core.startup import CannotStart, open_broker, read_settings, unknown_settings
from app.core.storage import open_store
from tests.support.commands import Commands, Ended

COMMANDS = {
    "api": ["secateur", "api"],
    "relay": ["secateur", "relay"],
    "worker": ["worker"],
    "migrate": ["secateur", "migrate"],
    "serve": ["secateur", "serve"],
}
LONG_RUNNING = ("api", "relay", "worker")
SECRET = "hunter2secret"


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture
def start(commands) -> Callable[..., str]:
    """Return a function that starts a process that must refuse, and returns its sentence."""

    def start(name: str, folder: Path, *, arguments: tuple[str, ...] = (), **environment: str) -> str:
        given = {"SECATEUR_DATA_DIR": str(folder), "SECATEUR_START_WAIT_S": "0"} | environment
        return read_refusal(commands.run(*COMMANDS[name], *arguments, env=os.environ | given))

    return start


def read_refusal(done: Ended) -> str:
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("secateur: ")]
    assert len(sentences) == 1, done.stderr
    return sentences[0]


@pytest.fixture
def migrated(tmp_path) -> Path:
    engine = make_engine(f"sqlite:///{tmp_path / 'secateur.db'}")
    schema.upgrade(engine)
    engine.dispose()
    return tmp_path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_database_that_does_not_answer(start, name, tmp_path):
    url = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:{closed_port()}/secateur"
    sentence = start(name, tmp_path, SECATEUR_DATABASE_URL=url)
    assert "the database does not answer" in sentence
    assert "SECATEUR_DATABASE_URL is 'postgresql+psycopg://me:***@127.0.0.1" in sentence


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("api", "nonsense"),
        ("worker", f"mysql://me:{SECRET}@db/x"),
        ("migrate", f"postgresql+nodriver://me:{SECRET}@db/x"),
    ],
)
def test_a_database_url_that_cannot_be(start, name, url, tmp_path):
    assert "SECATEUR_DATABASE_URL: expected" in start(name, tmp_path, SECATEUR_DATABASE_URL=url)


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_database_without_a_schema(start, name, tmp_path):
    sentence = start(name, tmp_path)
    assert "older than this version" in sentence
    assert "found none" in sentence
    assert "run `secateur migrate`" in sentence


@pytest.mark.parametrize("name", COMMANDS)
def test_a_database_of_a_newer_version(start, name, migrated):
    engine = make_engine(f"sqlite:///{migrated / 'secateur.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    sentence = start(name, migrated)
    assert "newer than this version" in sentence
    assert "found 9999" in sentence
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


@pytest.mark.parametrize("name", [*LONG_RUNNING, "serve"])
def test_a_broker_that_does_not_answer(start, name, migrated):
    url = f"redis://:{SECRET}@127.0.0.1:{closed_port()}/0"
    sentence = start(name, migrated, SECATEUR_BROKER_URL=url)
    assert "the broker does not answer" in sentence
    assert "SECATEUR_BROKER_URL is 'redis://:***@127.0.0.1" in sentence


def test_a_broker_url_that_cannot_be(start, migrated):
    sentence = start("relay", migrated, SECATEUR_BROKER_URL=f"kafka://me:{SECRET}@k")
    assert "SECATEUR_BROKER_URL: expected one of redis://" in sentence


@pytest.mark.parametrize("password", [f"{SECRET}/x", "12/34" + SECRET, f"a?{SECRET}", f"a#{SECRET}"])
def test_a_broker_password_that_ends_its_url_early(password, tmp_path):
    with pytest.raises(CannotStart, match=r"password / is written as %2F") as refused:
        open_broker(Settings(data_dir=tmp_path, broker_url=f"redis://me:{password}@127.0.0.1:6379/0"))
    assert SECRET not in str(refused.value)
    open_broker(Settings(data_dir=tmp_path, broker_url="redis://me:a%2Fb@127.0.0.1:6379/0"))


@pytest.mark.parametrize("name", [*LONG_RUNNING, "serve"])
def test_a_store_that_cannot_be_written(start, name, migrated):
    (migrated / "file").touch()
    sentence = start(name, migrated, SECATEUR_STORE_URL=f"file://{migrated / 'file' / 'store'}")
    assert "SECATEUR_STORE_URL: expected a folder that can be written" in sentence


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_the_store_of_another_database(start, name, migrated):
    open_store(Settings(data_dir=migrated)).write_owner("ins_other")
    assert "is the installation ins_other's, and this database is ins_" in start(name, migrated)


def test_a_store_url_that_cannot_be(start, migrated):
    sentence = start("api", migrated, SECATEUR_STORE_URL=f"ftp://me:{SECRET}@host/x")
    assert "store" in sentence.lower()


@pytest.mark.parametrize(
    ("to", "store", "said"),
    [
        ("nonsense", "file:///tmp/x", "--to: expected sqlite:///FILE or postgresql+psycopg://"),
        (f"mysql://me:{SECRET}@db/x", "file:///tmp/x", "--to: expected a database of the kind"),
        ("sqlite:////tmp/x/other.db", f"ftp://me:{SECRET}@host/x", "--store: "),
    ],
)
def test_a_place_to_move_to_that_cannot_be(start, migrated, to, store, said):
    sentence = start("migrate", migrated, arguments=("--to", to, "--store", store))
    assert said in sentence


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE", f"mysql://me:{SECRET}@db/x"),
        ("BROKER", f"kafka://me:{SECRET}@k"),
        ("STORE", f"ftp://me:{SECRET}@host/x"),
    ],
)
def test_doctor_says_of_which_part_the_url_cannot_be(commands, migrated, name, url):
    env = os.environ | {"SECATEUR_DATA_DIR": str(migrated), f"SECATEUR_{name}_URL": url}
    done = commands.run("secateur", "doctor", env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert row.split()[1] == name.lower()


@pytest.mark.parametrize("name", ["worker", "migrate"])
def test_settings_that_cannot_be_are_all_named(start, name, tmp_path):
    sentence = start(name, tmp_path, SECATEUR_PORT="web", SECATEUR_LEASE_S="-1")
    assert "SECATEUR_PORT: " in sentence
    assert "found 'web'" in sentence
    assert "SECATEUR_LEASE_S: " in sentence


def test_a_port_that_is_taken(start, migrated):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in start("api", migrated, SECATEUR_PORT=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_the_api_listens_where_others_reach_it_only_when_told_to(start, migrated, host):
    sentence = start("api", migrated, SECATEUR_HOST=host)
    assert "has no keys" in sentence
    assert "SECATEUR_ALLOW_ANONYMOUS_NETWORK=true" in sentence


def test_a_host_is_an_address(start, migrated):
    assert "expected an address such as 127.0.0.1" in start("api", migrated, SECATEUR_HOST="my.host")


def test_settings_that_do_not_exist_are_named_in_a_warning():
    names = {"SECATEUR_LEASE_SECONDS": "1", "SECATEUR_LEASE_S": "1", "SECATEUR_URL": "x", "PATH": ""}
    assert unknown_settings(names) == ["SECATEUR_LEASE_SECONDS"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
def test_webhooks_may_lead_to_this_machine_only_when_nobody_else_reaches_the_service(host):
    with pytest.raises(CannotStart, match="turn it off, or set SECATEUR_HOST"):
        read_settings(host=host, webhook_allow_loopback=True)
    assert read_settings(host="127.0.0.1", webhook_allow_loopback=True).sending_rules.loopback
