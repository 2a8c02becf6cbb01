"""One run of the harness: start, disturb by a seeded schedule, heal, wait, judge."""

import random
import re
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.core.states import TERMINAL
from app.core.tables import Job
from tests.chaos.clients import Client, Manners
from tests.chaos.cluster import Cluster
from tests.chaos.evidence import Breach, Evidence
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.hooks import Hooks
from tests.chaos.journal import Journal
from tests.chaos.oracle import judge
from tests.chaos.recovery import cancel_s, lost_too_much, recovery_s, steps_done_again
from tests.chaos.site import Site
from tests.chaos.workload import Workload

_DAMAGES = ("tear_checkpoint", "flip_bit_of_checkpoint")
_ENDS_WITHIN_S = 300.0
_RETRY_S = 0.3
_JOB_ID = re.compile(r"job_[0-9a-z]{26}")


@dataclass(frozen=True)
class Plan:
    """What a run does; the seed decides which fault comes when, and with which parameters."""

    seed: int
    rounds: int
    clients: int = 4
    pause_s: tuple[float, float] = (0.2, 1.2)
    # Long faults overlap with short ones: this many at once.
    at_once: int = 3
    only: tuple[str, ...] = ()
    manners: Manners = field(default_factory=Manners)


@dataclass(frozen=True)
class Injected:
    """One line of the schedule as it was carried out."""

    round: int
    at_s: float
    fault: str
    hurt: str


@dataclass
class Outcome:
    """What came of a run."""

    injected: list[Injected] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    cancel_s: list[float] = field(default_factory=list)
    steps_again: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    # Of each job that a breach names.
    stories: dict[str, list[str]] = field(default_factory=dict)


def run_campaign(cluster: Cluster, site: Site, plan: Plan, workload: Workload) -> Outcome:
    """Disturb a cluster that was started, let it settle, and judge what is left."""
    journal = Journal(cluster.folder / "journal.jsonl")
    clients = [
        Client(cluster, journal, workload.make_spec, seed=f"{plan.seed}/{i}", manners=plan.manners)
        for i in range(plan.clients)
    ]
    outcome = Outcome()
    with Hooks(cluster, seed=plan.seed) as site.hooks:
        for client in clients:
            client.start()
        try:
            _disturb(site, plan, outcome)
        finally:
            for client in clients:
                client.stop_creating.set()
            cluster.heal()
            _wait_for_the_end(cluster, clients)
            journal.close()
        site.hooks.get_well()
    evidence = Evidence(cluster, journal, workload.expected, _damaged(outcome), site.hooks)
    _judge(evidence, site, outcome)
    return outcome


def draw(rng: random.Random, mode: str, only: tuple[str, ...]) -> Fault:
    """Draw a fault of the mode by its weight."""
    faults = [f for f in FAULTS.values() if mode in f.modes and (not only or f.name in only)]
    return rng.choices(faults, [f.weight for f in faults])[0]


def _disturb(site: Site, plan: Plan, outcome: Outcome) -> None:
    rng, started = random.Random(plan.seed), time.monotonic()
    lock = threading.Lock()
    with ThreadPoolExecutor(plan.at_once) as pool:
        running: list[Future[None]] = []
        for number in range(plan.rounds):
            chosen, seed = draw(rng, site.cluster.mode, plan.only), rng.getrandbits(64)
            time.sleep(rng.uniform(*plan.pause_s))
            running.append(pool.submit(_inject, site, chosen, seed, number, started, outcome, lock))
            while sum(not future.done() for future in running) >= plan.at_once:
                time.sleep(0.05)
        for future in running:
            future.result()


def _inject(site, chosen: Fault, seed: int, number: int, started: float, outcome: Outcome, lock) -> None:
    at_s = time.monotonic() - started
    hurt = None
    # A target may be away for the moment, the database too: look again for a while.
    for _ in range(20):
        try:
            hurt = chosen.inject(site, random.Random(seed))
        except SQLAlchemyError:
            hurt = None
        if hurt is not None:
            break
        time.sleep(_RETRY_S)
    if hurt is not None:
        with lock:
            outcome.injected.append(Injected(number, at_s, chosen.name, hurt))


def _wait_for_the_end(cluster: Cluster, clients: list[Client]) -> None:
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < deadline:
        try:
            if not any(c.is_alive() for c in clients) and not _count_open(cluster):
                break
        except SQLAlchemyError:
            traceback.print_exc()
        time.sleep(0.3)
    for client in clients:
        client.give_up.set()
        client.join(30.0)
    _wait_for_clear_scratch(cluster)


def _wait_for_clear_scratch(cluster: Cluster) -> None:
    """Work folders go after the end of their job, some only when a worker looks for them."""
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while list(cluster.settings.work_dir.glob("job_*")) and time.monotonic() < deadline:
        time.sleep(0.3)


def _count_open(cluster: Cluster) -> int:
    query = select(func.count()).where(Job.status.not_in(TERMINAL))
    with cluster.engine.connect() as connection:
        return connection.scalar(query) or 0


def _judge(evidence: Evidence, site: Site, outcome: Outcome) -> None:
    outcome.breaches = judge(evidence) + lost_too_much(evidence)
    hurt = {breach.job_id for breach in outcome.breaches} & evidence.jobs.keys()
    outcome.stories = {job_id: evidence.tell(job_id) for job_id in sorted(hurt)}
    outcome.statuses = Counter(job.status for job in evidence.jobs.values())
    outcome.recovery_s = recovery_s(evidence, site.kills)
    outcome.cancel_s = cancel_s(evidence)
    outcome.steps_again = [cost for costs in steps_done_again(evidence).values() for cost in costs[1:]]
    outcome.complaints = evidence.complaints
    outcome.answers = Counter(f"{f['status']} {f['code']}" for f in evidence.journal.read("come_again"))
    outcome.answers += Counter(f["error"] for f in evidence.journal.read("no_answer"))


def _damaged(outcome: Outcome) -> set[str]:
    # A runner without room for a checkpoint goes on from an older one, too.
    hurts = [i.hurt for i in outcome.injected if i.fault in _DAMAGES]
    return {job_id for hurt in hurts for job_id in _JOB_ID.findall(hurt)}
