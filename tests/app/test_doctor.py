"""doctor: database and store compared both ways, told and put right; on a folder and on a bucket."""

import hashlib
import json
import os
import subprocess
import sys

import obstore
import pytest
from sqlalchemy import select, update

from app.core import accounts, schema
from app.core.blobs import open_blobs
from app.core.config import Settings
from app.core.db import make_engine, make_sessions, now_plus
from app.core.ids import new_id
from app.core.tables import Blob, Dataset
from app.doctor import diagnose
from app.embedded import environment


@pytest.fixture(params=["folder", "bucket"])
def installation(request, tmp_path):
    given = request.getfixturevalue("s3").settings() if request.param == "bucket" else {}
    made = Settings(data_dir=tmp_path / "data", max_upload_bytes=1000, **given)
    schema.upgrade(make_engine(made.database_url))
    return made


@pytest.fixture
def sessions(installation):
    return make_sessions(make_engine(installation.database_url))


@pytest.fixture
def blobs(installation, sessions):
    return open_blobs(installation, sessions)


def ask(installation, **changes):
    given = {"repair": False, "is_deep": True, "tick": lambda *_: None} | changes
    found = diagnose(installation, **given)
    assert found.findings is not None, found.checks
    return found


def told(found):
    return [(f.kind, f.subject, f.is_fault, f.is_repaired) for f in found.findings]


def add(sessions, blobs, data: bytes) -> str:
    """Keep bytes with a dataset that speaks of them."""
    with blobs.stage() as staged:
        staged.write(data)
        sha256 = staged.commit()
    with sessions.begin() as session:
        accounts.refer(session, [sha256])
        session.add(
            Dataset(
                id=new_id("dst"),
                name="d",
                task="regression",
                format="csv",
                manifest={},
                files={"test": {"name": "f", "sha256": sha256, "size_bytes": len(data)}},
                splits={},
                sha256=sha256,
                size_bytes=len(data),
            )
        )
    return sha256


def overwrite(blobs, sha256: str, data: bytes) -> None:
    path = blobs.bytes.local_path(sha256)
    if path is not None:
        path.write_bytes(data)
    else:
        obstore.put(blobs.bytes._objects, f"blobs/{sha256[:2]}/{sha256}", data)


def test_the_store_of_another_database_is_not_compared(installation, blobs):
    blobs.bytes.write_owner("ins_other")
    found = diagnose(installation, repair=True, is_deep=False, tick=lambda *_: None)
    assert found.findings is None
    [store] = [check for check in found.checks if check.name == "store"]
    assert not store.is_ok
    assert "the installation ins_other's" in store.detail


def test_a_sound_installation_is_healthy(installation, sessions, blobs):
    add(sessions, blobs, b"sound")
    found = ask(installation)
    assert (found.is_healthy, found.findings) == (True, ())
    assert [check.name for check in found.checks] == ["database", "store", "broker", "disk"]


def test_missing_and_damaged_bytes_are_told_with_the_row_that_speaks_of_them(installation, sessions, blobs):
    lost, rotten, short = (add(sessions, blobs, data) for data in (b"lost", b"rotten", b"short"))
    blobs.bytes.delete(lost)
    overwrite(blobs, rotten, b"Rotten")
    overwrite(blobs, short, b"shor")
    found = ask(installation)
    assert not found.is_healthy
    kinds = {subject: kind for kind, subject, *_ in told(found)}
    assert kinds == {lost: "missing", rotten: "damaged", short: "damaged"}
    assert all("dataset dst_" in f.detail for f in found.findings)
    assert "older than the database" in found.advice[0]
    # Without reading the bytes, a flipped bit is not seen.
    assert rotten not in {subject for _, subject, *_ in told(ask(installation, is_deep=False))}
    repaired = ask(installation, repair=True)
    assert repaired.is_healthy
    assert all(f.is_repaired for f in repaired.findings)
    with sessions() as session:
        states = dict(session.execute(select(Blob.sha256, Blob.state)).all())
    assert states == {lost: "missing", rotten: "damaged", short: "damaged"}
    # What is noted is still told, and healed by the same bytes.
    assert not ask(installation).is_healthy
    for data in (b"lost", b"rotten", b"short"):
        add(sessions, blobs, data)
    assert ask(installation).is_healthy


def test_a_checkpoint_that_is_replaced_meanwhile_is_no_fault(installation, sessions, blobs, monkeypatch):
    sha256 = add(sessions, blobs, b"a checkpoint, say")
    store = type(blobs.bytes)
    size = store.size

    def size_after_it_went(self, one):
        with sessions.begin() as session:
            session.execute(update(Dataset).values(deleted_at=now_plus()))
        self.delete(sha256)
        return size(self, one)

    monkeypatch.setattr(store, "size", size_after_it_went)
    assert ask(installation, repair=True).findings == ()


def test_bytes_that_the_database_never_heard_of_are_told_and_deleted_on_demand(installation, sessions, blobs):
    used = add(sessions, blobs, b"used")
    with blobs.bytes.stage() as staged:
        staged.write(b"from a newer backup")
        orphan = staged.commit()
    assert ask(installation).is_healthy  # young bytes may be an upload under way
    old = installation.model_copy(update={"store_grace_s": 0.0})
    found = ask(old)
    assert told(found) == [("orphan", orphan, True, False)]
    assert "older than the store" in found.advice[0]
    assert ask(old, repair=True).is_healthy
    assert [blob.sha256 for blob in blobs.bytes.list_older_than(-1.0)] == [used]


def test_bytes_whose_account_is_lost_are_given_one(installation, sessions, blobs):
    sha256 = add(sessions, blobs, b"counted")
    with sessions.begin() as session:
        session.delete(session.get_one(Blob, sha256))
    assert told(ask(installation)) == [("unaccounted", sha256, True, False)]
    assert ask(installation, repair=True).is_healthy
    assert ask(installation).findings == ()


def test_what_waits_for_the_collector_is_no_fault(installation, sessions, blobs):
    sha256 = add(sessions, blobs, b"deleted")
    with sessions.begin() as session:
        session.execute(update(Dataset).values(deleted_at=now_plus()))
    old = installation.model_copy(update={"store_grace_s": 0.0})
    found = ask(old)
    assert (found.is_healthy, told(found)) == (True, [("orphan", sha256, False, False)])
    ask(old, repair=True)
    assert ask(old).findings == ()


def test_half_uploads_are_told_and_dropped(installation, blobs):
    staged = blobs.bytes.stage()
    staged.write(b"half")
    os.utime(staged.path, (1, 1))
    [half] = ask(installation).findings
    assert (half.kind, half.subject, half.is_fault) == ("half_upload", "1", False)
    ask(installation, repair=True)
    assert not staged.path.exists()


@pytest.mark.parametrize(
    ("changes", "part", "words"),
    [
        ({"store_url": "s3://nobody-made-this"}, "store", "NoSuchBucket"),
        ({"broker_url": "redis://127.0.0.1:1/0"}, "broker", "expected a broker at redis://127.0.0.1:1/0"),
        ({"max_upload_bytes": 2**60}, "disk", "expected room for the largest upload"),
        ({"database_url": "sqlite:////nowhere/secateur.db"}, "database", "found none"),
    ],
)
def test_each_part_that_is_not_there_is_named(s3, tmp_path, changes, part, words):
    made = Settings(data_dir=tmp_path / "data", **(s3.settings() | {"max_upload_bytes": 1000} | changes))
    if "database_url" not in changes:
        schema.upgrade(make_engine(made.database_url))
    found = diagnose(made, repair=False, is_deep=True, tick=lambda *_: None)
    [fault] = [check for check in found.checks if not check.is_ok]
    assert fault.name == part
    assert words in fault.detail
    assert not found.is_healthy


def test_another_schema_is_named_with_the_one_expected(installation):
    schema.downgrade(make_engine(installation.database_url), "0001")
    found = diagnose(installation, repair=False, is_deep=True, tick=lambda *_: None)
    assert found.findings is None
    assert "expected the schema 0006, found 0001; run `secateur migrate`" in found.checks[0].detail


def test_the_command_prints_a_table_or_json_and_its_exit_code_tells(installation, sessions, blobs):
    sha256 = add(sessions, blobs, b"gone")
    command = [sys.executable, "-m", "app.cli", "doctor"]
    given = {"env": environment(installation), "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*command, "--json"], **given)
    assert (done.returncode, json.loads(done.stdout)["is_healthy"]) == (0, True), done.stderr
    blobs.bytes.delete(sha256)
    done = subprocess.run(command, **given)
    assert done.returncode == 1
    assert sha256[:12] in done.stdout
    assert hashlib.sha256(b"gone").hexdigest() == sha256
