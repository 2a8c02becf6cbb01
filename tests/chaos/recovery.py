"""How long a job stood still after a kill -9, how many steps it did again, how fast it was cancelled."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from tests.chaos.evidence import Breach, Evidence
from tests.chaos.light_runner import CHECKPOINT_STEPS
from tests.chaos.site import Kill

_PROGRESS = {"stage.started", "stage.finished", "progress", "job.succeeded"}


def recovery_s(evidence: Evidence, kills: Iterable[Kill]) -> list[float]:
    """Return for each kill the seconds until the job's next progress; jobs that ended otherwise have none."""
    found = []
    for kill in kills:
        moment, has_begun_again = datetime.fromtimestamp(kill.at, UTC), False
        for event in evidence.events[kill.job_id]:
            if event.at <= moment:
                continue
            # What the dead runner had said may be written down a little after the kill.
            has_begun_again = has_begun_again or event.type == "attempt.started"
            if has_begun_again and event.type in _PROGRESS:
                found.append((event.at - moment).total_seconds())
                break
    return found


def cancel_s(evidence: Evidence) -> list[float]:
    """Return for each job that was cancelled the seconds from the request, queued or running, to its end."""
    moments = [{event.type: event.at for event in events} for events in evidence.events.values()]
    return [
        (at["job.cancelled"] - at["cancel.requested"]).total_seconds()
        for at in moments
        if {"cancel.requested", "job.cancelled"} <= at.keys()
    ]


def steps_done_again(evidence: Evidence) -> dict[str, list[int]]:
    """Return for each job what each resumption cost, in steps that an earlier process had done already."""
    costs: dict[str, list[int]] = {}
    for job_id, lines in evidence.traces.items():
        reached = 0
        for line in lines:
            if line["what"] == "resume":
                costs.setdefault(job_id, []).append(max(0, reached - line["step"]))
            reached = max(reached, line["step"])
    return costs


def lost_too_much(evidence: Evidence) -> list[Breach]:
    """A kill costs one checkpoint interval at most, unless we damaged the checkpoint ourselves."""
    return [
        Breach("lost work", job_id, f"{cost} steps done again, {CHECKPOINT_STEPS} are between checkpoints")
        for job_id, costs in steps_done_again(evidence).items()
        for cost in costs
        if cost > CHECKPOINT_STEPS and job_id not in evidence.damaged
    ]


def percentile(values: list[float], fraction: float) -> float:
    """Return the nearest-rank percentile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[math.ceil(fraction * len(ordered)) - 1] if ordered else math.nan
