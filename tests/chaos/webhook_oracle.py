"""I6: each end of a job reached the receiver at least once, always as the same message under the same id."""

import json
from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.evidence import Breach, Evidence
from tests.chaos.hooks import EVENTS


def webhooks_arrived(evidence: Evidence) -> Iterator[Breach]:
    """I6: at least once, under one webhook-id, the same bytes each time, and nothing that never happened."""
    if evidence.hooks is None:
        return
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for received in evidence.hooks.received:
        key = (received.data["job_id"], received.data["seq"])
        ids[key].add(received.message_id)
        bodies[received.message_id].add(received.body)
    taken = {
        (one.data["job_id"], one.data["seq"]): json.loads(one.body)["type"] for one in evidence.hooks.taken
    }
    happened = {
        (event.job_id, event.seq): event.type
        for events in evidence.events.values()
        for event in events
        if event.type in EVENTS and event.at >= evidence.hooks.since
    }
    for (job_id, seq), type_ in happened.items():
        if taken.get((job_id, seq)) != type_:
            yield Breach("I6", job_id, f"{type_} (event {seq}) never arrived")
    for job_id, seq in ids.keys() - happened.keys():
        yield Breach("I6", job_id, f"a message tells of event {seq}, which never happened")
    for (job_id, seq), found in ids.items():
        if len(found) > 1:
            yield Breach("I6", job_id, f"event {seq} came under {len(found)} ids")
    for message_id, found_bodies in bodies.items():
        if len(found_bodies) > 1:
            yield Breach("I6", message_id, f"one id came with {len(found_bodies)} bodies")
