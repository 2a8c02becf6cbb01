"""Routes that ask something of a job: cancel, pause, resume, retry; each may be sent twice."""

from fastapi import APIRouter, Response

from app.api.answers import json_answer
from app.api.dependencies import JobId, PartsDep, SessionDep
from app.api.jobs import make_limits, view
from app.api.json_body import OptionalJsonBody
from app.api.openapi import json_body
from app.api.views import JobView
from app.core.errors import InvalidParameter
from app.core.job_requests import RetryRequest
from app.services import faults, jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("/{job_id}/cancel", response_model=JobView)
def cancel_job(job_id: JobId, session: SessionDep) -> Response:
    """Ask for a cancel: at once when the job is queued, soon when it runs, never when it has ended."""
    return json_answer(view(session, jobs.cancel(session, job_id)).model_dump(mode="json"))


@router.post("/{job_id}/pause", response_model=JobView)
def pause_job(job_id: JobId, session: SessionDep) -> Response:
    """Ask for a pause: a job that runs writes a checkpoint and frees its device; no attempt is spent."""
    return json_answer(view(session, jobs.pause(session, job_id)).model_dump(mode="json"))


@router.post("/{job_id}/resume", response_model=JobView)
def resume_job(job_id: JobId, parts: PartsDep, session: SessionDep) -> Response:
    """Queue a paused job again: it goes on from its checkpoint. Withdraws a pause that has not begun."""
    job = jobs.resume(session, job_id, limits=make_limits(parts))
    return json_answer(view(session, job).model_dump(mode="json"))


@router.post(
    "/{job_id}/retry", response_model=JobView, openapi_extra=json_body(RetryRequest, is_required=False)
)
def retry_job(job_id: JobId, body: OptionalJsonBody, parts: PartsDep, session: SessionDep) -> Response:
    """Queue a job again that failed or was cancelled, from its last checkpoint or from the start."""
    asked = faults.read_json(body or b"{}", RetryRequest, InvalidParameter, what="the request")
    job = jobs.retry(session, job_id, asked.start, limits=make_limits(parts))
    return json_answer(view(session, job).model_dump(mode="json"))
