"""Chores go on whatever one of them meets, and rest while the database is of another version."""

import os
import time

import pytest
from sqlalchemy import text

from app.cleaning import Cleaner
from app.core import accounts, schema
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.storage import open_store


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'secateur.db'}")
    schema.upgrade(engine)
    return engine


@pytest.fixture
def cleaner(engine, tmp_path):
    settings = Settings(data_dir=tmp_path)
    return Cleaner(engine, open_store(settings), settings)


def count(cleaner: Cleaner, *, failing: int | None = None) -> list[str]:
    """Have each chore note its name instead; one of them fails."""
    done: list[str] = []

    def note(name: str, fails: bool) -> None:
        done.append(name)
        if fails:
            raise ZeroDivisionError("a bug of ours")

    for number, chore in enumerate(cleaner.chores):
        chore.do = lambda n=chore.name, f=number == failing: note(n, f)
    return done


def test_a_chore_that_fails_keeps_no_other_from_its_turn(cleaner):
    done = count(cleaner, failing=0)
    cleaner.do_due()
    assert done == [chore.name for chore in cleaner.chores]
    cleaner.do_due()
    assert len(done) == len(cleaner.chores), "none is due again yet"
    cleaner.chores[0].due = 0.0
    cleaner.do_due()
    assert done[-1] == cleaner.chores[0].name


def test_a_rare_chore_that_failed_is_not_put_off_for_a_day(cleaner):
    count(cleaner, failing=3)
    cleaner.do_due()
    assert cleaner.chores[3].every_s == 86_400.0
    assert cleaner.chores[3].due - time.monotonic() <= 600.0
    count(cleaner)
    cleaner.chores[3].due = 0.0
    cleaner.do_due()
    assert cleaner.chores[3].due - time.monotonic() > 80_000.0


def test_nothing_is_cleaned_on_the_schema_of_another_version(cleaner, engine):
    done = count(cleaner)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    cleaner.do_due()
    assert done == []


def test_bytes_of_another_installation_are_left_alone(cleaner, engine, tmp_path, caplog):
    # A relay with another database, by a typo or a new volume, and the store of the first.
    settings = Settings(data_dir=tmp_path)
    store = open_store(settings)
    store.write_owner("ins_first")
    with store.stage() as staged:
        staged.write(b"spoken of in the other database")
        sha256 = staged.commit()
    os.utime(store.local_path(sha256), (0, 0))
    cleaner.do_due()
    with make_sessions(engine)() as session:
        assert accounts.read_state(session, sha256) is None
    assert "the installation ins_first's" in caplog.records[0].error


def test_each_real_chore_runs(cleaner, caplog):
    cleaner.do_due()
    assert not caplog.records
