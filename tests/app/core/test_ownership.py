"""A store is of one database, which has written its id into it."""

import uuid

import pytest
from sqlalchemy import text

from app.core import schema
from app.core.db import make_engine, make_sessions
from app.core.errors import StorageFull
from app.core.ownership import ForeignStore, check_owner
from app.core.probes import probe_owner
from app.core.storage import LocalStore


@pytest.fixture
def other(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    schema.upgrade(engine)
    return make_sessions(engine)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def test_the_first_database_has_the_store_and_another_is_told_whose_it_is(sessions, other, store):
    for _ in range(2):
        check_owner(sessions, store)
    ours = store.read_owner()
    with pytest.raises(ForeignStore, match=f"is the installation {ours}'s, and this database is ins_"):
        check_owner(other, store)
    assert store.read_owner() == ours


def test_a_database_has_as_many_stores_as_it_likes(sessions, store, tmp_path):
    second = LocalStore(tmp_path / "second")
    check_owner(sessions, store)
    check_owner(sessions, second)
    assert second.read_owner() == store.read_owner()


def test_a_database_that_takes_no_writes_still_says_who_it_is(postgres, store):
    url = postgres.create_database(f"t{uuid.uuid4().hex}")
    engine = make_engine(url)
    schema.upgrade(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(f"ALTER DATABASE {engine.url.database} SET default_transaction_read_only = on")
        )
    # Nobody has made up its id yet.
    [fault] = probe_owner(make_engine(url), store)
    assert "the database cannot be written" in fault.detail
    check_owner(make_sessions(engine), store)
    assert probe_owner(make_engine(url), store) == []


def test_whoever_only_asks_marks_nothing(sessions, store):
    check_owner(sessions, store, may_mark=False)
    assert store.read_owner() is None


def test_of_two_that_come_at_once_the_first_one_gives_way(sessions, store):
    class Slow(LocalStore):
        def write_owner(self, installation: str) -> None:
            super().write_owner(installation)
            super().write_owner("ins_other")

    with pytest.raises(ForeignStore, match="ins_other"):
        check_owner(sessions, Slow(store.root))


def test_a_full_store_is_marked_once_there_is_room(sessions, store):
    class Full(LocalStore):
        def write_owner(self, installation: str) -> None:
            raise StorageFull("no room")

    check_owner(sessions, Full(store.root))
    assert store.read_owner() is None
