"""Collectors, uploads and rows take their steps in any order: live bytes stay, and the rest goes."""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from app.core import accounts, garbage, schema
from app.core.blobs import Blobs
from app.core.db import make_engine, make_sessions
from app.core.states import BlobState
from app.core.storage import BlobGone, LocalStore, StoreUnavailable, reading
from tests.app.core.stored import digest, forget, refer


class StepByStep(RuleBasedStateMachine):
    """Any order of the steps of uploaders, deleters and collectors, any of which may stop for ever."""

    database_url: str
    folder: object
    contents = st.sampled_from([b"a", b"b"])
    announced, written, confirmed, rows, found, marked = (
        Bundle(name) for name in ("announced", "written", "confirmed", "rows", "found", "marked")
    )

    def __init__(self) -> None:
        super().__init__()
        self.sessions = make_sessions(make_engine(self.make_url()))
        schema.upgrade(self.sessions.kw["bind"])
        self.store = LocalStore(self.folder / uuid.uuid4().hex)
        self.blobs = Blobs(self.sessions, self.store)
        self.live: dict[str, str] = {}

    @rule(target=announced, data=contents)
    def announce(self, data):
        sha256 = digest(data)
        try:
            accounts.announce(self.sessions, sha256, len(data), patience_s=0.0)
        except StoreUnavailable:
            return None
        return data

    @rule(target=written, data=announced)
    def write(self, data):
        # Nothing is written that was not announced: None is an announcement that was refused.
        if data is not None:
            with self.store.stage() as staged:
                staged.write(data)
                staged.commit()
        return data

    @rule(target=confirmed, data=written)
    def confirm(self, data):
        if data is None:
            return None
        try:
            self.blobs.confirm(digest(data))
        except BlobGone:
            return None
        return data

    @rule(target=rows, data=confirmed)
    def refer(self, data):
        if data is None:
            return None
        try:
            with self.sessions.begin() as session:
                row = refer(session, digest(data))
        except BlobGone:
            return None
        self.live[row] = digest(data)
        return row

    @rule(row=rows)
    def forget(self, row):
        if self.live.pop(row, None):
            forget(self.sessions, row)

    @rule(row=rows)
    def forget_and_release(self, row):
        # As if nobody could have touched the bytes since: the worst that a release may believe.
        if sha256 := self.live.pop(row, None):
            forget(self.sessions, row)
            with self.sessions.begin() as session:
                accounts.release(session, [sha256], since=datetime.max.replace(tzinfo=UTC))

    @rule()
    def collect_released(self):
        garbage.collect_released(self.sessions, self.store)

    @rule(target=found, which=st.integers(0, 1))
    def look(self, which):
        unused = garbage.find_unused(self.sessions, grace_s=-1.0)
        return unused[which % len(unused)] if unused else None

    @rule(target=marked, unused=found)
    def mark(self, unused):
        return unused if unused is not None and garbage.mark(self.sessions, unused) else None

    @rule(unused=marked)
    def delete(self, unused):
        if unused is not None:
            with self.sessions() as session:
                state = accounts.read_state(session, unused.sha256)
            # A collector goes through its own deletion once; a second one has to take it over first.
            if state == (BlobState.DELETING, unused.touches + 1):
                garbage.delete_marked(self.sessions, self.store, unused)

    @rule()
    def take_over(self):
        for unused in garbage.find_unfinished(self.sessions, 0.0):
            if garbage.mark(self.sessions, unused):
                garbage.delete_marked(self.sessions, self.store, unused)

    @invariant()
    def live_bytes_are_there(self):
        for sha256 in self.live.values():
            reading.verify(self.store, sha256)

    def teardown(self) -> None:
        self.take_over()
        # Who was silent for longer than the grace may write bytes whose account is closed by then.
        garbage.adopt_unknown(self.sessions, self.store, grace_s=-1.0)
        garbage.collect(self.sessions, self.store, grace_s=-1.0)
        assert {blob.sha256 for blob in self.store.list_older_than(-1.0)} == set(self.live.values())
        self.sessions.kw["bind"].dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_in_any_order_of_steps_live_bytes_stay_and_the_rest_goes(kind, request, tmp_path):
    server = request.getfixturevalue("postgres") if kind == "postgres" else None

    class Machine(StepByStep):
        folder = tmp_path

        def make_url(self) -> str:
            name = uuid.uuid4().hex
            return f"sqlite:///{tmp_path / name}.db" if server is None else server.create_database(f"g{name}")

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=12, stateful_step_count=20, deadline=None)
    )
