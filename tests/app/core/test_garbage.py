"""Collecting garbage never takes live bytes, whatever happens between its steps; on both databases."""

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from sqlalchemy import select

from app.core import accounts, checkpoints, garbage, jobs, schema
from app.core.blobs import Blobs
from app.core.db import make_engine, make_sessions, now_plus
from app.core.ids import new_id
from app.core.references import referenced
from app.core.storage import BlobGone, BlobMissing, LocalStore, StoreUnavailable, reading
from app.core.tables import Artifact, Blob, Model
from tests.app.core.conftest import new_job
from tests.app.core.stored import digest, forget, refer


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def blobs(sessions, store):
    return Blobs(sessions, store)


def write(blobs, data: bytes) -> str:
    with blobs.stage() as staged:
        staged.write(data)
        return staged.commit()


def test_what_nobody_speaks_of_is_deleted_after_the_grace_and_not_before(sessions, blobs, store):
    used, unused = write(blobs, b"used"), write(blobs, b"unused")
    with sessions.begin() as session:
        refer(session, used)
    assert garbage.collect(sessions, store, grace_s=60.0) == 0
    assert garbage.collect(sessions, store, grace_s=-1.0) == 1
    assert blobs.read(used) == b"used"
    with pytest.raises(BlobMissing):
        blobs.size(unused)
    with sessions() as session:
        assert session.scalars(select(Blob.sha256)).all() == [used]


def test_models_that_are_there_datasets_and_artifacts_hold_their_bytes(sessions, blobs, store, job_id):
    digests = {name: write(blobs, name.encode()) for name in ("ready", "rejected", "deleted", "artifact")}
    with sessions.begin() as session:
        for name in ("ready", "rejected", "deleted"):
            session.add(a_model(name, digests[name]))
        session.add(
            Artifact(
                job_id=job_id,
                name="model.safetensors",
                kind="model",
                media_type="application/octet-stream",
                sha256=digests["artifact"],
                size_bytes=8,
                loads_in_clean_process=True,
            )
        )
    assert garbage.collect(sessions, store, grace_s=-1.0) == 2
    assert {name for name, sha256 in digests.items() if blobs.exists(sha256)} == {"ready", "artifact"}


def test_bytes_that_cannot_be_deleted_keep_nothing_else_from_it(sessions, blobs, store, monkeypatch):
    digests = [write(blobs, str(n).encode()) for n in range(8)]
    stuck = digests[0]
    delete = store.delete

    def refuse(sha256):
        if sha256 == stuck:
            raise PermissionError("held for legal reasons")
        delete(sha256)

    monkeypatch.setattr(store, "delete", refuse)
    for _ in range(2):
        garbage.collect(sessions, store, grace_s=-1.0)
    assert {blob.sha256 for blob in store.list_older_than(-1.0)} == {stuck}
    monkeypatch.undo()
    assert garbage.collect(sessions, store, grace_s=-1.0) == 1


def test_a_store_that_deletes_nothing_is_not_asked_for_everything(sessions, blobs, store, monkeypatch):
    for n in range(20):
        write(blobs, str(n).encode())
    asked = []

    def refuse(sha256):
        asked.append(sha256)
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(store, "delete", refuse)
    with pytest.raises(StoreUnavailable):
        garbage.collect(sessions, store, grace_s=-1.0)
    assert len(asked) < 20


def test_replaced_checkpoints_go_without_a_grace_and_the_newest_two_stay(sessions, blobs, store, job_id):
    with sessions.begin() as session:
        lease = jobs.claim(session, job_id, "w", lease_s=30.0)
    stage = write(blobs, b"stage")
    steps = [write(blobs, f"step {step}".encode()) for step in range(4)]
    for step, sha256 in enumerate(steps):
        files = {"stage": {"sha256": stage, "size": 5}, f"{step}": {"sha256": sha256, "size": 6}}
        with sessions.begin() as session:
            checkpoints.save(session, lease, checkpoints.NewCheckpoint("finetune", step, "v", files))
    assert garbage.collect_released(sessions, store) == 2
    assert [blobs.exists(sha256) for sha256 in (stage, *steps)] == [True, False, False, True, True]
    # Somebody uploads the same bytes: what is on its way to a row of its own keeps its grace.
    write(blobs, b"step 3")
    with sessions.begin() as session:
        checkpoints.drop(session, job_id)
    assert garbage.collect_released(sessions, store) == 2
    assert [blobs.exists(sha256) for sha256 in (stage, *steps)] == [False, False, False, False, True]
    assert garbage.collect(sessions, store, grace_s=-1.0) == 1


def test_released_bytes_that_another_row_speaks_of_stay(sessions, blobs, store, model_id):
    shared = write(blobs, b"of both")
    for _ in range(2):
        with sessions.begin() as session:
            twin = jobs.create(session, new_job(model_id), hint_again_s=30.0).id
            lease = jobs.claim(session, twin, "w", lease_s=30.0)
            files = {"a": {"sha256": shared, "size": 7}}
            checkpoints.save(session, lease, checkpoints.NewCheckpoint("finetune", 1, "v", files))
    with sessions.begin() as session:
        checkpoints.drop(session, twin)
    assert garbage.collect_released(sessions, store) == 0
    assert blobs.exists(shared)


def a_model(name: str, sha256: str) -> Model:
    return Model(
        id=new_id("mdl"),
        name=name,
        format="safetensors",
        manifest={},
        files={"weights": {"name": "w", "sha256": sha256, "size_bytes": 1}},
        sha256=sha256,
        size_bytes=1,
        status="rejected" if name == "rejected" else "ready",
        parameters=1,
        deleted_at=now_plus() if name == "deleted" else None,
    )


def test_bytes_marked_for_deletion_can_be_referred_to_by_nobody(sessions, blobs):
    sha256 = write(blobs, b"marked")
    [unused] = garbage.find_unused(sessions, grace_s=-1.0)
    assert garbage.mark(sessions, unused)
    with pytest.raises(BlobGone, match="upload them again"), sessions.begin() as session:
        refer(session, sha256)
    with sessions() as session:
        assert sha256 not in referenced(session)


def test_an_upload_of_bytes_that_are_being_deleted_waits_and_brings_them_again(sessions, blobs, store):
    sha256 = write(blobs, b"twice")
    [unused] = garbage.find_unused(sessions, grace_s=-1.0)
    assert garbage.mark(sessions, unused)
    with ThreadPoolExecutor() as pool:
        again = pool.submit(write, blobs, b"twice")
        garbage.delete_marked(sessions, store, unused)
        assert again.result(60.0) == sha256
    with sessions.begin() as session:
        refer(session, sha256)
    assert blobs.read(sha256) == b"twice"


def test_bytes_that_somebody_else_has_only_announced_cannot_be_referred_to(sessions, blobs, store):
    """Whoever was silent for longer than the grace has lost them, though their account is open again."""
    sha256 = write(blobs, b"twice")
    assert garbage.collect(sessions, store, grace_s=-1.0) == 1
    blobs.announce(sha256, 5)
    with pytest.raises(BlobGone, match="upload them again"), sessions.begin() as session:
        refer(session, sha256)
    assert write(blobs, b"twice") == sha256
    with sessions.begin() as session:
        refer(session, sha256)


def test_bytes_that_were_deleted_after_they_were_written_are_not_confirmed(sessions, blobs, store):
    sha256 = digest(b"slow")
    blobs.announce(sha256, 4)
    [unused] = garbage.find_unused(sessions, grace_s=-1.0)
    assert garbage.mark(sessions, unused)
    with store.stage() as staged:
        staged.write(b"slow")
        staged.commit()
    with pytest.raises(BlobGone, match="upload them again"):
        blobs.confirm(sha256)
    garbage.delete_marked(sessions, store, unused)
    with pytest.raises(BlobGone, match="upload them again"):
        blobs.confirm(sha256)
    blobs.announce(sha256, 4)
    with pytest.raises(BlobGone, match="upload them again"):
        blobs.confirm(sha256)


def test_a_collector_that_never_ends_makes_an_upload_fail_and_try_later(sessions, blobs):
    sha256 = write(blobs, b"stuck")
    [unused] = garbage.find_unused(sessions, grace_s=-1.0)
    assert garbage.mark(sessions, unused)
    with pytest.raises(StoreUnavailable, match="being deleted"):
        accounts.announce(sessions, sha256, 5, patience_s=0.0)


def test_an_upload_that_comes_after_the_references_were_read_keeps_its_bytes(sessions, blobs, store):
    """The classic race: old bytes, found unused; then somebody uploads the same and refers to them."""
    sha256 = write(blobs, b"old")
    found = garbage.find_unused(sessions, grace_s=-1.0)
    assert [unused.sha256 for unused in found] == [sha256]
    write(blobs, b"old")
    with sessions.begin() as session:
        refer(session, sha256)
    assert not garbage.mark(sessions, found[0])
    assert garbage.collect(sessions, store, grace_s=-1.0) == 0
    assert blobs.read(sha256) == b"old"


def test_a_collector_waits_for_a_reference_that_has_not_committed_and_then_leaves_its_bytes(
    sessions, blobs, store
):
    sha256 = write(blobs, b"held")
    with ThreadPoolExecutor() as pool:
        with sessions.begin() as session:
            refer(session, sha256)
            collecting = pool.submit(garbage.collect, sessions, store, grace_s=-1.0)
            # Either it waits for us, or it has not begun: it cannot have ended with our bytes.
            assert not collecting.done()
        assert collecting.result(60.0) == 0
    assert blobs.read(sha256) == b"held"


def test_a_deletion_whose_collector_died_is_ended_by_the_next(sessions, blobs, store):
    sha256 = write(blobs, b"half deleted")
    [unused] = garbage.find_unused(sessions, grace_s=-1.0)
    assert garbage.mark(sessions, unused)
    assert garbage.collect(sessions, store, grace_s=3600.0) == 1
    assert not blobs.exists(sha256)
    with sessions() as session:
        assert accounts.read_state(session, sha256) is None


def test_bytes_without_an_account_are_adopted_and_collected_a_grace_later(sessions, store):
    with store.stage() as staged:
        staged.write(b"from an older version")
        sha256 = staged.commit()
    assert garbage.collect(sessions, store, grace_s=-1.0) == 0
    assert garbage.adopt_unknown(sessions, store, grace_s=-1.0) == 1
    assert garbage.adopt_unknown(sessions, store, grace_s=-1.0) == 0
    assert garbage.collect(sessions, store, grace_s=3600.0) == 0
    assert garbage.collect(sessions, store, grace_s=-1.0) == 1
    with pytest.raises(BlobMissing):
        store.size(sha256)


def test_uploads_deletions_and_collectors_at_once_lose_no_live_byte_and_leave_no_orphan(postgres, store):
    """Few contents and no grace: every upload meets a collector at another of its steps."""
    sessions = make_sessions(make_engine(postgres.create_database(f"g{uuid.uuid4().hex}")))
    schema.upgrade(sessions.kw["bind"])
    blobs = Blobs(sessions, store)
    contents = [f"content {i}".encode() for i in range(3)]
    stop, faults, kept = threading.Event(), [], []

    def upload(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            data = chance.choice(contents)
            try:
                sha256 = write(blobs, data)
                with sessions.begin() as session:
                    dataset_id = refer(session, sha256)
            except (BlobGone, StoreUnavailable):
                continue  # refused: nothing was promised
            try:
                reading.verify(store, sha256)
            except BlobMissing as error:
                faults.append(error)
            if chance.random() < 0.9:
                forget(sessions, dataset_id)
            else:
                kept.append(sha256)

    def collect() -> None:
        while not stop.is_set():
            garbage.collect(sessions, NoLock(store), grace_s=-1.0)

    with ThreadPoolExecutor(8) as pool:
        collectors = [pool.submit(collect) for _ in range(2)]
        try:
            for done in [pool.submit(upload, seed) for seed in range(3)]:
                done.result(240.0)
        finally:
            stop.set()
        for done in collectors:
            done.result(60.0)
    assert faults == []
    garbage.collect(sessions, store, grace_s=-1.0)
    assert {blob.sha256 for blob in store.list_older_than(-1.0)} == set(kept)
    for sha256 in set(kept):
        reading.verify(store, sha256)


class NoLock:
    """A folder whose collectors do not exclude each other, as those of a bucket."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def collecting(self):
        return nullcontext(600.0)
