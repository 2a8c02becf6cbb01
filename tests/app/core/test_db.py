"""What a database connection of ours promises."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from app.core import db


def test_a_process_that_falls_asleep_in_a_transaction_does_not_keep_its_locks(postgres, monkeypatch):
    monkeypatch.setattr(db, "IDLE_IN_TRANSACTION_S", 0.5)
    url = postgres.create_database("asleep")
    sleeper, other = db.make_engine(url), db.make_engine(url)
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE leases (id int)"))
        connection.execute(text("INSERT INTO leases VALUES (1)"))
    with sleeper.connect() as asleep:
        asleep.execute(text("SELECT id FROM leases FOR UPDATE"))
        # Without a limit this waits for as long as the first one is quiet.
        with other.begin() as awake:
            awake.execute(text("SET LOCAL lock_timeout = '60s'"))
            awake.execute(text("UPDATE leases SET id = 2"))
        with pytest.raises(OperationalError) as raised:
            asleep.execute(text("UPDATE leases SET id = 3"))
    assert raised.value.connection_invalidated
    with sleeper.begin() as connection:
        assert connection.execute(text("SELECT id FROM leases")).scalars().all() == [2]
    sleeper.dispose()
    other.dispose()


def test_a_server_that_only_reads_is_left_for_another(postgres):
    """After a failover the connection leads to what is a standby now; the next one leads to its successor."""
    url = postgres.create_database("standby")
    engine = db.make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE jobs (id int)"))
    postgres.execute("ALTER DATABASE standby SET default_transaction_read_only = on")
    engine.dispose()
    with pytest.raises(OperationalError) as raised, engine.begin() as connection:
        connection.execute(text("INSERT INTO jobs VALUES (1)"))
    assert raised.value.connection_invalidated
    postgres.execute("ALTER DATABASE standby SET default_transaction_read_only = off")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO jobs VALUES (1)"))
    engine.dispose()


def test_a_statement_about_another_moment_is_not_taken_for_the_one_before(database_url):
    """Statements are compiled once each and found again by what they say: the seconds belong to that."""
    engine = db.make_engine(database_url)
    with engine.connect() as connection:
        now, later, before = (
            connection.scalar(select(db.now_plus(seconds))) for seconds in (0.0, 3600.0, -3600.0)
        )
    engine.dispose()
    assert (later - now).total_seconds() == pytest.approx(3600.0, abs=60.0)
    assert (before - now).total_seconds() == pytest.approx(-3600.0, abs=60.0)


def test_a_question_that_is_asked_again_is_not_compiled_again(database_url):
    engine = db.make_engine(database_url)
    with engine.connect() as connection:
        hits = [connection.execute(select(db.now_plus(5.0))).context.cache_hit.name for _ in range(2)]
    engine.dispose()
    assert hits == ["CACHE_MISS", "CACHE_HIT"]
