"""The events of a job: one URL, JSON pages or a stream of server-sent events."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from anyio import sleep, to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from app.api.answers import json_answer, json_bytes
from app.api.dependencies import JobId, Parts, PartsDep
from app.api.views import EventView, PageView, view_event
from app.core.errors import ErrorItem, InvalidParameter
from app.core.states import JobStatus
from app.core.tables import JobEvent
from app.services import events, jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_EVENT_STREAM = "text/event-stream"
_AT_ONCE = 100
_MAX_SEQ = 2**31 - 1


@router.get(
    "/{job_id}/events",
    response_model=PageView[EventView],
    responses={200: {"content": {_EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def list_events(
    request: Request,
    job_id: JobId,
    parts: PartsDep,
    after: Annotated[int, Query(ge=0, le=_MAX_SEQ, description="Only events with a higher number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = _AT_ONCE,
) -> Response:
    """List events from the first on, or follow them with `Accept: text/event-stream`.

    `next_cursor` is the number to give as `after`. A stream resumes from `Last-Event-ID` and closes after the
    job's last event; 204 means that there is nothing left to stream.
    """
    if _EVENT_STREAM in request.headers.get("Accept", ""):
        return await _stream(parts, job_id, after=_read_last_event_id(request, after))
    found = await to_thread.run_sync(_read_page, parts, job_id, after, limit + 1)
    rows, has_more = found[:limit], len(found) > limit
    return json_answer(
        {
            "data": [view_event(event).model_dump(mode="json") for event in rows],
            "has_more": has_more,
            "next_cursor": str(rows[-1].seq) if has_more else None,
        },
        headers={"Vary": "Accept"},
    )


async def _stream(parts: Parts, job_id: str, *, after: int) -> Response:
    status, last_seq = await to_thread.run_sync(_read_status, parts, job_id)
    if JobStatus(status).is_terminal and after >= last_seq:
        # Tells an EventSource not to connect again (HTML, 9.2.3).
        return Response(status_code=204, headers={"Vary": "Accept"})
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}
    return StreamingResponse(_follow(parts, job_id, after), 200, headers, _EVENT_STREAM)


async def _follow(parts: Parts, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield events as they come; between the short reads no connection and no thread is held."""
    settings = parts.settings
    last_sent = time.monotonic()
    while not parts.closing.is_set():
        found = await to_thread.run_sync(_read_events, parts, job_id, after, _AT_ONCE)
        for event in found:
            yield _format(event)
            after, last_sent = event.seq, time.monotonic()
            if event.type in events.TERMINAL_EVENTS and await to_thread.run_sync(
                _is_over, parts, job_id, event.seq
            ):
                return
        if len(found) == _AT_ONCE:
            continue
        if time.monotonic() - last_sent >= settings.sse_heartbeat_s:
            # Who asks for what comes after more than there is never meets the last event.
            if await to_thread.run_sync(_is_over, parts, job_id, after):
                return
            yield format_sse_event(comment="heartbeat")
            last_sent = time.monotonic()
        await sleep(min(settings.event_poll_s, settings.sse_heartbeat_s))


def _format(event: JobEvent) -> bytes:
    # No `event:` field: a browser then needs no listener for each type, which is in the data anyway.
    data = json_bytes(view_event(event).model_dump(mode="json")).decode("ascii")
    return format_sse_event(data_str=data, id=str(event.seq))


def _read_page(parts: Parts, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
    with parts.reading_sessions() as session:
        jobs.read_status(session, job_id)
        return events.read_events(session, job_id, after=after, limit=limit)


def _read_events(parts: Parts, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
    with parts.reading_sessions() as session:
        return events.read_events(session, job_id, after=after, limit=limit)


def _read_status(parts: Parts, job_id: str) -> tuple[str, int]:
    with parts.reading_sessions() as session:
        row = jobs.read_status(session, job_id)
        return row.status, row.last_seq


def _is_over(parts: Parts, job_id: str, seq: int) -> bool:
    """Tell whether the job has ended and nothing came after `seq`: it may have been retried since."""
    status, last_seq = _read_status(parts, job_id)
    return JobStatus(status).is_terminal and last_seq <= seq


def _read_last_event_id(request: Request, after: int) -> int:
    found = request.headers.get("Last-Event-ID", "")
    if not found:
        return after
    if not (found.isascii() and found.isdigit()) or len(found) > 10 or int(found) > _MAX_SEQ:
        detail = "Last-Event-ID must be the number of an event"
        raise InvalidParameter(
            detail, errors=(ErrorItem(pointer="/header/last-event-id", code="int_parsing", detail=detail),)
        )
    return int(found)
