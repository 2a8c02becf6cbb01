"""The line of queued jobs: priority, then fairness, then age; positions say what is taken."""

import random
from itertools import pairwise

import pytest
from sqlalchemy import text, update

from app.core import job_returns, jobs, line
from app.core.errors import Unavailable
from app.core.job_returns import Backoff
from app.core.states import AttemptClass
from app.core.tables import Job
from tests.app.core.conftest import new_job

BOTH = ("cpu", "cuda")


@pytest.fixture
def add(sessions, model_id):
    def add(**changes) -> str:
        with sessions.begin() as session:
            return jobs.create(session, new_job(model_id, **changes), hint_again_s=30.0).id

    return add


def find_next(sessions, devices=("cpu",)):
    with sessions() as session:
        return line.find_next(session, devices)


def take(sessions, devices=("cpu",)):
    """Take the next job as a worker does; returns its id and its lease."""
    with sessions.begin() as session:
        job_id = line.find_next(session, devices)
        return job_id, job_id and jobs.claim(session, job_id, "w", lease_s=3600.0)


def test_nothing_is_next_in_an_empty_line(sessions):
    assert find_next(sessions) is None


def test_a_higher_priority_goes_first_whoever_is_older(sessions, add):
    add()
    urgent = add(priority=5)
    add(priority=-5)
    assert find_next(sessions) == urgent


def test_of_one_priority_the_oldest_goes_first(sessions, add):
    ids = [add() for _ in range(4)]
    assert [take(sessions)[0] for _ in range(5)] == [*ids, None]


def test_a_tenant_with_many_jobs_does_not_hold_up_another_one(sessions, add):
    many = [add(tenant="a") for _ in range(5)]
    late = add(tenant="b")
    assert [take(sessions)[0] for _ in range(4)] == [many[0], late, many[1], many[2]]


def test_a_worker_is_given_only_what_its_devices_can_run(sessions, add):
    cuda, anything, cpu = add(device="cuda"), add(device="auto"), add(device="cpu")
    assert find_next(sessions, ("cpu",)) == anything
    assert find_next(sessions, ("cuda",)) == cuda
    assert [take(sessions, ("cpu",))[0] for _ in range(3)] == [anything, cpu, None]
    assert take(sessions, BOTH)[0] == cuda


def test_what_was_set_back_waits_until_its_time_and_lets_others_pass(sessions, add):
    first = add()
    second = add()
    _, lease = take(sessions)
    problem = Unavailable("the store is away").problem()
    with sessions.begin() as session:
        job_returns.set_back(
            session, lease, problem, AttemptClass.TRANSIENT, backoff=Backoff(first_s=1e5, most_s=1e5)
        )
    assert find_next(sessions) == second
    with sessions.begin() as session:
        assert jobs.claim(session, first, "w", lease_s=30.0) is None
        assert line.find_positions(session, [first, second]) == {second: 1, first: 2}
        session.execute(update(Job).where(Job.id == first).values(next_run_at=None))
    assert find_next(sessions) == first


@pytest.mark.parametrize("seed", range(5))
def test_the_positions_are_the_order_in_which_jobs_are_taken(sessions, add, seed):
    chance = random.Random(seed)
    for _ in range(25):
        add(
            tenant=chance.choice("aaab") if chance.random() < 0.8 else "c",
            priority=chance.choice([0, 0, 1]),
            device=chance.choice(["auto", "cpu"]),
        )
    for _ in range(chance.randrange(6)):
        take(sessions)
    with sessions() as session:
        queued = [row.id for row in session.execute(text("SELECT id FROM jobs WHERE status = 'queued'"))]
        places = line.find_positions(session, queued)
    taken = [take(sessions)[0] for _ in queued]
    assert [places[job_id] for job_id in taken] == list(range(1, len(queued) + 1))


def test_each_device_has_a_line_of_its_own(sessions, add):
    ids = [add(device=device) for device in ("cuda", "cpu", "cuda", "auto")]
    with sessions() as session:
        places = line.find_positions(session, ids)
    assert [places[job_id] for job_id in ids] == [1, 1, 2, 2]


def test_the_next_of_ten_thousand_is_found_through_the_index(sessions, add, database_url):
    template = add(tenant="t0")
    copy = (
        "INSERT INTO jobs (id, name, model_id, spec, resolved_spec, spec_sha256, labels, tenant, priority, "
        "device, status, progress, gates, cancel_requested, attempt, max_attempts, epoch, last_seq) "
        "SELECT :id, name, model_id, spec, resolved_spec, spec_sha256, labels, :tenant, 0, device, status, "
        "progress, gates, cancel_requested, attempt, max_attempts, epoch, last_seq FROM jobs WHERE id = :of"
    )
    rows = [{"id": f"job_{i:05}", "tenant": f"t{i % 20}", "of": template} for i in range(10_000)]
    with sessions.begin() as session:
        session.execute(text(copy), rows)
    with sessions.begin() as session:
        session.execute(text("ANALYZE jobs"))
    assert find_next(sessions) == template
    explain = "EXPLAIN " if database_url.startswith("postgresql") else "EXPLAIN QUERY PLAN "
    with sessions() as session:
        for query in (
            "SELECT max(priority) FROM jobs WHERE status = 'queued' AND device IN ('auto', 'cpu') "
            "AND (next_run_at IS NULL OR next_run_at <= '2026-01-01')",
            "SELECT min(tenant) FROM jobs WHERE status = 'queued' AND device IN ('auto', 'cpu') "
            "AND priority = 0 AND tenant > 't3'",
            "SELECT created_at, id FROM jobs WHERE status = 'queued' AND device IN ('auto', 'cpu') "
            "AND priority = 0 AND tenant = 't3' ORDER BY created_at, id LIMIT 1",
        ):
            plan = "\n".join(str(row) for row in session.execute(text(explain + query)))
            assert "ix_jobs_line" in plan, plan
            assert "Seq Scan" not in plan
            assert "SCAN jobs\n" not in plan + "\n"


def test_pauses_are_drawn_up_to_a_bound_that_doubles():
    backoff = Backoff(first_s=5.0, most_s=600.0)
    draws = [[backoff.draw_s(setbacks) for _ in range(2000)] for setbacks in range(10)]
    bounds = [min(600.0, 5.0 * 2**setbacks) for setbacks in range(10)]
    for drawn, bound in zip(draws, bounds, strict=True):
        assert 0.0 <= min(drawn) < bound / 10
        assert bound * 0.9 < max(drawn) <= bound
    assert all(before <= after for before, after in pairwise(bounds))
