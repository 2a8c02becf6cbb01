"""Routes of jobs: create, validate, find, follow."""

import json
import re
import time
from typing import Annotated

from anyio import sleep, to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy.orm import Session

from app.api.answers import etag_of, json_answer, json_bytes, matches, page_answer, resource_answer
from app.api.dependencies import LABEL_FILTER, Cursor, JobId, Limit, Parts, PartsDep, ReadingDep, SessionDep
from app.api.idempotency import IdempotencyDep
from app.api.json_body import JsonBody
from app.api.openapi import json_body
from app.api.views import AttemptView, JobView, PageView, ValidationView, view_attempt, view_job
from app.core.digests import sha256_of_json
from app.core.errors import ErrorItem, InvalidParameter, InvalidSpec
from app.core.spec import JobSpec
from app.core.states import JobStatus
from app.core.tables import Job
from app.services import jobs, specs, webhooks
from app.services.idempotency import Answer
from app.services.jobs import JobLimits, Validation

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_MAX_WAIT_S = 60
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LABEL_FILTERS = {
    "parameters": [
        {
            "name": LABEL_FILTER,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "Only jobs whose label KEY has this value; for any labels.",
        }
    ]
}


@router.post("", status_code=202, response_model=JobView, openapi_extra=json_body(JobSpec))
def create_job(body: JsonBody, parts: PartsDep, once: IdempotencyDep, session: SessionDep) -> Response:
    """Queue a job."""
    spec = specs.read_spec(body)
    webhooks.check_callbacks(spec.callbacks, parts.settings.sending_rules)
    sent = json.loads(body)

    def create() -> Answer:
        sent_openly = webhooks.without_secrets(sent)
        job = jobs.create(session, spec, sent_openly, parts.catalog, limits=make_limits(parts))
        webhooks.add_callbacks(session, job.id, spec.callbacks)
        return Answer(202, view(session, job).model_dump(mode="json"), {"Location": f"/v1/jobs/{job.id}"})

    return once.answer(session, sha256_of_json(sent), create)


@router.post("/validate", response_model=ValidationView, openapi_extra=json_body(JobSpec))
def validate_job(body: JsonBody, parts: PartsDep, session: ReadingDep) -> Response:
    """Say whether a spec would be taken, and what it would do; nothing is queued."""
    try:
        spec = specs.read_spec(body)
        webhooks.check_callbacks(spec.callbacks, parts.settings.sending_rules)
        found = jobs.validate(session, spec, parts.catalog, limits=make_limits(parts))
    except InvalidSpec as error:
        found = jobs.refused(error)
    return json_answer(_view_validation(found).model_dump(mode="json"))


@router.get("", response_model=PageView[JobView], openapi_extra=_LABEL_FILTERS)
def list_jobs(
    request: Request,
    session: ReadingDep,
    status: JobStatus | None = None,
    model_id: Annotated[str | None, Query(max_length=40)] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Response:
    """List jobs, newest first."""
    labels = _read_labels(request)
    page = jobs.find(session, status=status, model_id=model_id, labels=labels, limit=limit, cursor=cursor)
    positions = jobs.queue_positions(session, list(page.rows))
    return page_answer(page.map(lambda job: view_job(job, positions.get(job.id))))


@router.get("/{job_id}", response_model=JobView)
async def get_job(
    request: Request, job_id: JobId, parts: PartsDep, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Get one job. `Prefer: wait=N` answers when its status changes, or after N seconds (at most 60)."""
    wait_s = _read_wait(prefer)
    view = await to_thread.run_sync(_read_job, parts, job_id)
    if wait_s is None:
        return resource_answer(request, view)
    view = await _wait_for_change(request, parts, view, wait_s=wait_s)
    return resource_answer(request, view, {"Preference-Applied": f"wait={wait_s}"})


@router.get("/{job_id}/attempts", response_model=PageView[AttemptView])
def list_attempts(job_id: JobId, session: ReadingDep, limit: Limit = 20, cursor: Cursor = None) -> Response:
    """List the attempts at a job, newest first: who ran it, from when to when, and how that ended."""
    return page_answer(jobs.read_attempts(session, job_id, limit=limit, cursor=cursor).map(view_attempt))


def make_limits(parts: Parts) -> JobLimits:
    """Return what bounds a job, from the settings."""
    settings = parts.settings
    return JobLimits(settings.max_queued_jobs, settings.hint_again_s, settings.devices)


def view(session: Session, job: Job) -> JobView:
    return view_job(job, jobs.queue_positions(session, [job]).get(job.id))


def _view_validation(found: Validation) -> ValidationView:
    return ValidationView(
        valid=found.is_valid, errors=list(found.errors), resolved_spec=found.resolved_spec, plan=found.plan
    )


def _read_job(parts: Parts, job_id: str) -> JobView:
    with parts.reading_sessions() as session:
        return view(session, jobs.get(session, job_id))


def _read_status(parts: Parts, job_id: str) -> JobStatus:
    with parts.reading_sessions() as session:
        return JobStatus(jobs.read_status(session, job_id).status)


async def _wait_for_change(request: Request, parts: Parts, view: JobView, *, wait_s: int) -> JobView:
    """Return the job when its status differs from what the client knows, has ended, or the time is over.

    Only the status is looked at meanwhile: a queued job's place counts all that wait. Between the short reads
    no connection and no thread is held.
    """
    known = request.headers.get("If-None-Match")
    if known is not None and not matches(known, etag_of(json_bytes(view.model_dump(mode="json")))):
        return view
    if view.is_terminal:
        return view
    status, deadline = view.status, time.monotonic() + wait_s
    while status == view.status and not await request.is_disconnected():
        left_s = deadline - time.monotonic()
        if left_s <= 0 or parts.closing.is_set():
            break
        await sleep(min(parts.settings.event_poll_s, left_s))
        status = await to_thread.run_sync(_read_status, parts, view.id)
    return await to_thread.run_sync(_read_job, parts, view.id)


def _read_wait(prefer: str | None) -> int | None:
    """Return the seconds of `Prefer: wait=N`; a preference that cannot be read is ignored (RFC 7240)."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit() and len(value) < 10:
            return min(int(value), _MAX_WAIT_S)
    return None


def _read_labels(request: Request) -> dict[str, str]:
    labels = {k.removeprefix("label."): v for k, v in request.query_params.items() if k.startswith("label.")}
    for key in labels:
        if not _LABEL_KEY.fullmatch(key):
            detail = f"{ascii(key)[1:-1][:80]!r} cannot be the name of a label"
            raise InvalidParameter(
                detail, errors=(ErrorItem(pointer="/query/label.KEY", code="bad_label", detail=detail),)
            )
    return labels
