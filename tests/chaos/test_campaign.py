"""A short run of the harness with a fixed seed in each mode; `make chaos` runs long ones."""

import random

import pytest

from tests.chaos import arena, broker_faults, database_faults, process_faults, receiver_faults, storage_faults
from tests.chaos.campaign import Plan, draw, run_campaign
from tests.chaos.faults import FAULTS
from tests.chaos.workload import prepare_light

PLAN = Plan(seed=7, rounds=12, clients=3, pause_s=(0.1, 0.8))
# Imported for what they register.
SOURCES = (process_faults, broker_faults, database_faults, receiver_faults, storage_faults)


def assert_unharmed(site):
    outcome = run_campaign(site.cluster, site, PLAN, prepare_light(site.cluster))
    assert outcome.breaches == [], "\n".join(map(str, [*outcome.injected, *outcome.breaches]))
    assert len(outcome.injected) >= PLAN.rounds // 2
    assert outcome.statuses["succeeded"] > 0


def test_no_invariant_breaks_on_postgres_with_many_processes(postgres):
    with arena.scaled(postgres, apis=1, workers=2) as site:
        assert_unharmed(site)


def test_no_invariant_breaks_in_embedded_mode():
    with arena.embedded() as site:
        assert_unharmed(site)


@pytest.mark.parametrize("mode", ["scaled", "embedded"])
def test_a_seed_draws_the_same_faults_each_time(mode):
    drawn = [[draw(random.Random(seed), mode, ()).name for seed in range(50)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert all(mode in FAULTS[name].modes for name in drawn[0])
