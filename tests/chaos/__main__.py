"""`make chaos SEED=n ROUNDS=m MODE=scaled|embedded JOBS=light|real`: disturb, judge, print."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tests.chaos import arena, broker_faults, database_faults, process_faults, receiver_faults, storage_faults
from tests.chaos.campaign import Outcome, Plan, run_campaign
from tests.chaos.clients import Manners
from tests.chaos.faults import FAULTS
from tests.chaos.recovery import percentile
from tests.chaos.site import Site
from tests.chaos.workload import prepare_light, prepare_real
from tests.support.postgres import PostgresServer

# Imported for what they register.
SOURCES = (process_faults, broker_faults, database_faults, receiver_faults, storage_faults)
_MOST_COMPLAINTS = 12
# The times of a deployment as it comes, to measure recovery by.
_PRODUCTION = {
    "lease_s": 15.0,
    "beat_s": 3.0,
    "sweep_s": 2.0,
    "hint_again_s": 30.0,
    "kill_grace_s": 10.0,
    "backoff_first_s": 5.0,
    "backoff_most_s": 600.0,
}


def main(arguments: list[str]) -> int:
    """Run one campaign; returns 1 when an invariant was broken."""
    given = _parse(arguments)
    console = Console(width=140)
    changes: dict[str, object] = _PRODUCTION.copy() if given.pace == "production" else {}
    is_real = given.jobs == "real"
    changes |= {"runner_module": "worker.runner", "check_timeout_s": 300.0} if is_real else {}
    low, high = (2.0, 6.0) if is_real else (0.2, 1.2)
    plan = Plan(
        seed=given.seed,
        rounds=given.rounds,
        clients=2 if is_real else 4,
        pause_s=(low * given.pause, high * given.pause),
        only=tuple(given.only.split(",")) if given.only else (),
        manners=Manners(cancel_fraction=0.05) if is_real else Manners(),
    )
    with _site(given.mode, changes) as site:
        workload = prepare_real(site.cluster) if is_real else prepare_light(site.cluster)
        outcome = run_campaign(site.cluster, site, plan, workload)
    _print(console, outcome, title=f"{given.mode}, {given.jobs} jobs, {given.pace} times, seed {given.seed}")
    return 1 if outcome.breaches else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--mode", choices=("scaled", "embedded"), default="scaled")
    parser.add_argument("--jobs", choices=("light", "real"), default="light")
    parser.add_argument("--pace", choices=("quick", "production"), default="quick")
    parser.add_argument("--pause", type=float, default=1.0, help="stretches the pauses between faults")
    parser.add_argument("--only", default="", help=f"of these alone: {', '.join(FAULTS)}")
    return parser.parse_args(arguments)


@contextmanager
def _site(mode: str, changes: dict[str, object]) -> Iterator[Site]:
    if mode == "embedded":
        with arena.embedded(**changes) as site:
            yield site
        return
    postgres = PostgresServer()
    try:
        postgres.start()
        with arena.scaled(postgres, **changes) as site:
            yield site
    finally:
        postgres.stop()


def _print(console: Console, outcome: Outcome, *, title: str) -> None:
    table = Table("fault", "of the list", "injected", title=title, title_justify="left")
    for name, count in sorted(Counter(i.fault for i in outcome.injected).items()):
        table.add_row(name, " ".join(FAULTS[name].numbers), str(count))
    table.add_row("total", "", str(len(outcome.injected)), style="bold")
    console.print(table)
    console.print(f"jobs: {_list(outcome.statuses)}; clients were also told: {_list(outcome.answers)}")
    waits, again = outcome.recovery_s, [float(cost) for cost in outcome.steps_again]
    console.print(
        f"kill -9 to next progress: n={len(waits)}, p50 {percentile(waits, 0.5):.1f} s, "
        f"p99 {percentile(waits, 0.99):.1f} s; steps done again a resumption: n={len(again)}, "
        f"mean {sum(again) / max(1, len(again)):.1f}, most {max(again, default=0):.0f}"
    )
    cancels = outcome.cancel_s
    console.print(
        f"request to cancel to its end: n={len(cancels)}, p50 {percentile(cancels, 0.5):.1f} s, "
        f"p99 {percentile(cancels, 0.99):.1f} s"
    )
    for complaint, count in outcome.complaints.most_common(_MOST_COMPLAINTS):
        console.print(f"{count:5d} logged by {complaint}", markup=False)
    if outcome.breaches:
        console.rule("schedule")
        for injected in sorted(outcome.injected, key=lambda i: i.round):
            console.print(f"{injected.round:4d} {injected.at_s:8.2f} s {injected.fault}: {injected.hurt}")
        for job_id, story in outcome.stories.items():
            console.rule(job_id)
            for line in story:
                console.print(line, markup=False)
        console.rule("breaches")
    for breach in outcome.breaches:
        console.print(f"[red]{breach.invariant}[/red] {breach.job_id}: {breach.evidence}")
    console.print(f"{len(outcome.breaches)} invariants broken")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
