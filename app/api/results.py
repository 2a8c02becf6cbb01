"""Routes of what a job leaves: report, layers, masks, artifacts."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.answers import matches, page_answer, resource_answer
from app.api.dependencies import Cursor, JobId, OptionalLimit, PartsDep, ReadingDep
from app.api.file_answer import StoredFile, file_answer
from app.api.views import ArtifactView, MaskView, PageView, view_artifact, view_mask
from app.core.errors import ErrorItem, InvalidParameter
from app.core.report import LayerReport, Report
from app.services import results
from app.services.pages import in_order

router = APIRouter(prefix="/v1/jobs", tags=["results"])
_REPORT_FORMATS = ("json",)
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/{job_id}/report", response_model=Report)
def get_report(
    request: Request,
    job_id: JobId,
    session: ReadingDep,
    report_format: Annotated[str, Query(alias="format", max_length=20)] = "json",
) -> Response:
    """Get the report of a job that has succeeded; 409 before it has ended."""
    if report_format not in _REPORT_FORMATS:
        detail = f"there is no report as {report_format!r}; there are: {', '.join(_REPORT_FORMATS)}"
        item = ErrorItem(pointer="/query/format", code="unknown_format", detail=detail)
        raise InvalidParameter(detail, errors=(item,))
    return resource_answer(request, results.read_report(session, job_id))


@router.get("/{job_id}/layers", response_model=PageView[LayerReport])
def list_layers(
    job_id: JobId, session: ReadingDep, limit: OptionalLimit = None, cursor: Cursor = None
) -> Response:
    """List what became of each layer; empty until the job has succeeded."""
    return page_answer(in_order(results.read_layers(session, job_id), limit=limit, cursor=cursor))


@router.get("/{job_id}/masks", response_model=PageView[MaskView])
def list_masks(
    job_id: JobId, session: ReadingDep, limit: OptionalLimit = None, cursor: Cursor = None
) -> Response:
    """List the masks, one a pruned tensor; empty until the job has succeeded."""
    masks = in_order(results.read_masks(session, job_id), limit=limit, cursor=cursor)
    return page_answer(masks.map(view_mask))


@router.get("/{job_id}/masks/{name:path}", response_class=Response, responses={200: {"content": _BYTES}})
def get_mask(request: Request, job_id: JobId, name: str, session: ReadingDep) -> Response:
    """Get one mask: a bit a weight, `numpy.packbits(mask, bitorder="little")` in C order, 1 = kept."""
    mask, bits = results.read_mask(session, job_id, name)
    shape = ",".join(map(str, mask.shape))
    tag = f'"{mask.sha256}"'
    return _binary(request, bits, {"ETag": tag, "X-Mask-Shape": shape})


@router.get("/{job_id}/artifacts", response_model=PageView[ArtifactView])
def list_artifacts(
    job_id: JobId, session: ReadingDep, limit: OptionalLimit = None, cursor: Cursor = None
) -> Response:
    """List the files that a job made; empty until it has succeeded."""
    artifacts = in_order(results.read_artifacts(session, job_id), limit=limit, cursor=cursor)
    return page_answer(artifacts.map(view_artifact))


@router.head("/{job_id}/artifacts/{name:path}", response_class=Response, include_in_schema=False)
@router.get("/{job_id}/artifacts/{name:path}", response_class=Response, responses={200: {"content": _BYTES}})
def get_artifact(
    request: Request, job_id: JobId, name: str, parts: PartsDep, session: ReadingDep
) -> Response:
    """Download a file; a `Range` of it with 206. `Repr-Digest` is the SHA-256 of the whole file.

    Of a large file, a 307 leads to a URL of the store that is good for some minutes.
    """
    artifact = results.read_artifact(session, job_id, name)
    file = StoredFile(name, artifact.media_type, artifact.sha256, artifact.size_bytes)
    # To check a large file takes longer than a transaction may be silent.
    session.close()
    return file_answer(request, file, parts.store, parts.settings)


def _binary(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    if matches(request.headers.get("If-None-Match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/octet-stream")
