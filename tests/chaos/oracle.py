"""The oracle: invariants I1 to I8, each a function that yields what breaks it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from app.core.states import AttemptEnd, JobStatus, Stage
from app.core.tables import Job, JobAttempt
from tests.chaos import light_job
from tests.chaos.evidence import Breach, Evidence
from tests.chaos.store_oracle import stored_bytes
from tests.chaos.webhook_oracle import webhooks_arrived

Check = Callable[[Evidence], Iterator[Breach]]
_TERMINAL_EVENTS = {f"job.{status}" for status in ("succeeded", "failed", "cancelled")}
_DEATHS = (AttemptEnd.CRASHED, AttemptEnd.STALLED, AttemptEnd.LOST)
_RUNNER_EVENTS = {"stage.started", "stage.finished", "progress"}
_FAULT_CODES = {"exit": "crash_loop", "segfault": "crash_loop", "nonsense": "crash_loop", "hang": "timeout"}


def judge(evidence: Evidence) -> list[Breach]:
    """Return every breach of every invariant."""
    return [breach for check in CHECKS for breach in check(evidence)]


def accepted_jobs_exist(evidence: Evidence) -> Iterator[Breach]:
    """I1: each request that was answered made one job, however often it was sent; no answer, at most one."""
    by_key = Counter(job.labels.get(light_job.KEY_LABEL) for job in evidence.jobs.values())
    for fact in evidence.journal.read("created"):
        if fact["job_id"] not in evidence.jobs:
            yield Breach("I1", fact["job_id"], "a client was told of it, and it is not in the database")
    for fact in evidence.journal.read("asked"):
        if by_key[fact["key"]] > 1:
            yield Breach("I1", fact["key"], f"{by_key[fact['key']]} jobs for one Idempotency-Key")
    first = {fact["key"]: fact["job_id"] for fact in evidence.journal.read("created")}
    for fact in evidence.journal.read("repeated"):
        if fact["job_id"] != first[fact["key"]]:
            yield Breach("I1", first[fact["key"]], f"the same key was answered with {fact['job_id']}")
    for fact in evidence.journal.read("refused"):
        yield Breach("I1", fact["key"], f"a good spec was refused: {fact['status']} {fact['body'][:200]}")
    for fact in evidence.journal.read("saw"):
        if fact["code"] != 200:
            yield Breach("I1", fact["job_id"], f"a client that asked for it got {fact['code']}")


def jobs_end_as_they_must(evidence: Evidence) -> Iterator[Breach]:
    """I1, too: a machine's fault never ends a job, unless it used up every attempt."""
    for job in evidence.jobs.values():
        if not JobStatus(job.status).is_terminal:
            continue
        why_not = _why_not_like_this(job, evidence)
        if why_not is not None:
            code = (job.error or {}).get("code")
            yield Breach("I1", job.id, f"{why_not}: {job.status} {code} after {job.attempt} attempts")


def results_are_whole_and_right(evidence: Evidence) -> Iterator[Breach]:
    """I2: a succeeded job has one report and the bytes of its spec; another has neither."""
    for job in evidence.jobs.values():
        has_report = job.id in evidence.reports
        if has_report != (job.status == JobStatus.SUCCEEDED):
            yield Breach("I2", job.id, f"{job.status}, and has {'a' if has_report else 'no'} report")
        digests = [a.sha256 for a in evidence.artifacts[job.id] if a.name == light_job.ARTIFACT_NAME]
        wanted = [evidence.expected(job.spec)] if job.status == JobStatus.SUCCEEDED else []
        if digests != wanted:
            yield Breach("I2", job.id, f"artifacts {digests}, expected {wanted}")
    for fact in evidence.journal.read("downloaded"):
        wanted_digest = evidence.expected(evidence.created[fact["job_id"]])
        if (fact["code"], fact["sha256"]) != (200, wanted_digest):
            yield Breach("I2", fact["job_id"], f"downloaded {fact['code']} {fact['sha256']}")


def the_end_is_final(evidence: Evidence) -> Iterator[Breach]:
    """I3: one terminal event, the last, of the state that the job has and that clients saw."""
    for job in evidence.jobs.values():
        events = evidence.events[job.id]
        ends = [event.type for event in events if event.type in _TERMINAL_EVENTS]
        wanted = [f"job.{job.status}"] if JobStatus(job.status).is_terminal else []
        if ends != wanted or (ends and events[-1].type != ends[0]):
            yield Breach(
                "I3", job.id, f"{job.status}, with the ends {ends}, the last event {events[-1].type}"
            )
    for fact in evidence.journal.read("saw"):
        job = evidence.jobs.get(fact["job_id"])
        if job and fact["status"] in ("succeeded", "failed", "cancelled") and fact["status"] != job.status:
            yield Breach("I3", job.id, f"a client saw it {fact['status']}, now it is {job.status}")


def events_are_gapless(evidence: Evidence) -> Iterator[Breach]:
    """I4: numbered from 1 without a gap, in the order of time, and the same for whoever read them."""
    for job in evidence.jobs.values():
        events = evidence.events[job.id]
        if [event.seq for event in events] != list(range(1, job.last_seq + 1)):
            yield Breach("I4", job.id, f"events {[event.seq for event in events]} of {job.last_seq}")
        if any(a.at > b.at for a, b in pairwise(events)):
            yield Breach("I4", job.id, "an event is older than the one before it")
    for fact in evidence.journal.read("events"):
        stored = {event.seq: event.type for event in evidence.events[fact["job_id"]]}
        for place, (seq, type_) in enumerate(fact["events"], start=fact["after"] + 1):
            if seq != place or stored.get(seq) != type_:
                yield Breach("I4", fact["job_id"], f"a client read event {seq} {type_} in place {place}")


def one_attempt_at_a_time(evidence: Evidence) -> Iterator[Breach]:
    """I5: epochs follow each other, each ends before the next begins, and writes only while it lasts."""
    for job in evidence.jobs.values():
        attempts, open_epoch = evidence.attempts[job.id], None
        if [a.epoch for a in attempts] != list(range(1, job.epoch + 1)):
            yield Breach("I5", job.id, f"epochs {[a.epoch for a in attempts]} of {job.epoch}")
        for event in evidence.events[job.id]:
            if event.type == "attempt.started":
                if open_epoch is not None:
                    yield Breach("I5", job.id, f"event {event.seq}: begins while epoch {open_epoch} lasts")
                open_epoch = event.data["epoch"]
            elif event.type == "attempt.ended":
                if open_epoch != event.data["epoch"]:
                    yield Breach("I5", job.id, f"event {event.seq}: ends {event.data}, open is {open_epoch}")
                open_epoch = None
            elif event.type in _RUNNER_EVENTS and open_epoch is None:
                yield Breach("I5", job.id, f"event {event.seq} {event.type} outside of any attempt")
        counted = [a for a in attempts if not _is_free(a, job)]
        is_damaged = job.id in evidence.damaged
        got_on = [a for a in counted if _may_have_got_on(a, attempts, is_damaged=is_damaged)]
        if not len(counted) - len(got_on) <= job.attempt <= len(counted):
            ends = [f"{a.ended} {a.class_}: {a.detail}, from {a.resumed_from}" for a in attempts]
            found = f"{len(counted)} count or got on, {len(got_on)} of them got on"
            yield Breach("I5", job.id, f"of {ends} {found}, and the job says {job.attempt}")


def one_process_at_a_time(evidence: Evidence) -> Iterator[Breach]:
    """I5, too: in one work folder no runner does a step once another has begun."""
    for job_id, lines in evidence.traces.items():
        over: set[int] = set()
        current = None
        for line in lines:
            if line["pid"] in over:
                yield Breach(
                    "I5", job_id, f"process {line['pid']} did step {line['step']} after its successor"
                )
                break
            if current not in (None, line["pid"]):
                over.add(current)
            current = line["pid"]


def every_job_ended(evidence: Evidence) -> Iterator[Breach]:
    """I8: after the last fault and a generous wait, nothing is left to do."""
    for job in evidence.jobs.values():
        if not JobStatus(job.status).is_terminal:
            last = evidence.events[job.id][-1]
            yield Breach("I8", job.id, f"still {job.status}, attempt {job.attempt}, last event {last.type}")
    if evidence.unpublished:
        yield Breach("I8", "-", f"{evidence.unpublished} messages of the outbox were never published")


CHECKS: tuple[Check, ...] = (
    accepted_jobs_exist,
    jobs_end_as_they_must,
    results_are_whole_and_right,
    the_end_is_final,
    events_are_gapless,
    one_attempt_at_a_time,
    one_process_at_a_time,
    webhooks_arrived,
    stored_bytes,
    every_job_ended,
)


def _is_free(attempt: JobAttempt, job: Job) -> bool:
    """Tell whether an attempt was given back: one that failed is, unless the job failed with it."""
    if attempt.ended == AttemptEnd.FAILED:
        return attempt.epoch < job.epoch or job.status != JobStatus.FAILED
    return attempt.ended in (AttemptEnd.RELEASED, AttemptEnd.PAUSED)


def _may_have_got_on(attempt: JobAttempt, attempts: Sequence[JobAttempt], *, is_damaged: bool) -> bool:
    """Tell whether a later attempt shows, or none can, that one whose process died came further.

    None can where we damaged what it left: the next goes on from before that.
    """
    if attempt.ended == AttemptEnd.CANCELLED:
        # It may have been given back, or have died, when its job turned out to be cancelled.
        return True
    later = [other for other in attempts if other.epoch > attempt.epoch]
    begun = [other.resumed_from for other in later if other.resumed_from is not None]
    if attempt.ended not in _DEATHS or (attempt.epoch > 1 and attempt.resumed_from is None):
        return False
    if is_damaged or not begun or any(other.warnings for other in later):
        return True
    return max(map(_place, begun)) > _place(attempt.resumed_from)


def _place(resumed_from: Mapping[str, Any] | None) -> tuple[int, float]:
    if resumed_from is None:
        return -1, 0.0
    step = resumed_from["step"]
    return list(Stage).index(Stage(resumed_from["stage"])), math.inf if step is None else step


def _why_not_like_this(job: Job, evidence: Evidence) -> str | None:
    code = (job.error or {}).get("code")
    way = job.labels.get(light_job.WAY_LABEL, "well")
    if job.status == JobStatus.CANCELLED:
        return None if job.cancel_requested else "cancelled, and nobody asked for it"
    if code == "crash_loop":
        return None if job.attempt >= job.max_attempts else "given up before its attempts were used up"
    if way == "well":
        return None if job.status == JobStatus.SUCCEEDED else "failed by no fault of its own"
    if way == "fail":
        return None if code == "invalid_spec" else "ended otherwise than its fault says"
    return None if code == _FAULT_CODES[way] else "ended otherwise than its fault says"
