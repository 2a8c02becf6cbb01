"""The one tree of errors: each class fixes an HTTP status, a stable code, a title and who is to blame.

SecateurError
├── BadRequest 400 · NotFound 404 · NotAllowed 405 · Conflict 409 (NotReady, TransitionRefused, ResourceInUse)
├── TooLarge 413 · UnsupportedMedia 415 · RangeNotSatisfiable 416 · MisdirectedRequest 421
├── InvalidInput 422 (InvalidSpec, InvalidModel, InvalidDataset …) · LimitReached 429
├── StorageFull 507 · Unavailable 503 (WorkerUnfit: another worker may run the job)
└── JobError: what ends a job as failed (user, resource, crash, bug)
"""

from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

ERROR_TYPE_PREFIX = "urn:secateur:error:"


class Blame(StrEnum):
    """Whose mistake an error is; it decides whether a retry can help.

    `worker`: what one worker lacks alone, so that no number of retries speaks against the job.
    """

    USER = "user"
    TRANSIENT = "transient"
    RESOURCE = "resource"
    WORKER = "worker"
    BUG = "bug"


class ErrorItem(BaseModel):
    """One fault inside a request: a JSON pointer to it, a code and a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pointer: str
    code: str
    detail: str


class Problem(BaseModel):
    """An RFC 9457 problem, as sent over HTTP and as kept on failed jobs and rejected models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    instance: str | None = None
    request_id: str | None = None
    errors: tuple[ErrorItem, ...] = ()


class SecateurError(Exception):
    """Something went wrong inside Secateur."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int | None] = None
    blame: ClassVar[Blame] = Blame.BUG

    def __init__(self, detail: str, *, errors: tuple[ErrorItem, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors

    def problem(self) -> Problem:
        """Render this error as a problem without instance and request id."""
        return Problem(
            type=ERROR_TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            retryable=self.retryable,
            errors=self.errors,
        )


class BadRequest(SecateurError):
    status, code, title, blame = 400, "bad_request", "The request cannot be read", Blame.USER


class MalformedJson(BadRequest):
    code, title = "malformed_json", "The body is not JSON"


class MalformedMultipart(BadRequest):
    code, title = "malformed_multipart", "The body is not multipart/form-data"


class NotFound(SecateurError):
    status, code, title, blame = 404, "not_found", "No such resource", Blame.USER


class NotAllowed(SecateurError):
    status, code, title, blame = 405, "method_not_allowed", "Method not allowed", Blame.USER


class Conflict(SecateurError):
    status, code, title, blame = 409, "conflict", "The resource is in another state", Blame.USER


class NotReady(Conflict):
    code, title, retryable = "not_ready", "The resource is not ready yet", True
    retry_after_s = 1


class ResourceInUse(Conflict):
    code, title = "resource_in_use", "The resource is in use"


class TransitionRefused(Conflict):
    code, title = "transition_refused", "The job cannot go into that state"


class RequestInFlight(Conflict):
    code, title, retryable = "idempotency_in_flight", "The first request with this key is still running", True
    retry_after_s = 1


class TooLarge(SecateurError):
    status, code, title, blame = 413, "too_large", "The upload is over the limit", Blame.USER


class UnsupportedMedia(SecateurError):
    status, code, title, blame = 415, "unsupported_media_type", "Unsupported media type", Blame.USER


class RangeNotSatisfiable(SecateurError):
    status, code, title, blame = 416, "range_not_satisfiable", "Range not satisfiable", Blame.USER


class MisdirectedRequest(SecateurError):
    status, code, title, blame = 421, "misdirected_request", "The request is for another host", Blame.USER


class InvalidInput(SecateurError):
    status, code, title, blame = 422, "invalid_input", "The input is not valid", Blame.USER


class InvalidParameter(InvalidInput):
    code, title = "invalid_parameter", "A parameter of the request is not valid"


class InvalidUpload(InvalidInput):
    code, title = "invalid_upload", "The parts of the upload do not fit the manifest"


class IdempotencyKeyReused(InvalidInput):
    code, title = "idempotency_key_reused", "The idempotency key belongs to another request"


class InvalidSpec(InvalidInput):
    code, title = "invalid_spec", "The job spec is not valid"


class InvalidManifest(InvalidInput):
    code, title = "invalid_manifest", "The manifest is not valid"


class InvalidWebhook(InvalidInput):
    code, title = "invalid_webhook", "The webhook is not valid"


class UnsupportedFormat(InvalidInput):
    code, title = "unsupported_format", "This format is not supported"


class InvalidModel(InvalidInput):
    code, title = "invalid_model", "The model file is not valid"


class PickleRefused(InvalidModel):
    code, title = "pickle_refused", "Pickled files are never read"


class TruncatedFile(InvalidModel):
    code, title = "truncated_file", "The file ends too early"


class InvalidHeader(InvalidModel):
    code, title = "invalid_header", "The safetensors header is not valid"


class OverlappingTensors(InvalidModel):
    code, title = "overlapping_tensors", "Tensors overlap or leave gaps in the file"


class DuplicateKeys(InvalidModel):
    code, title = "duplicate_keys", "A tensor name occurs twice"


class ArchitectureMismatch(InvalidModel):
    code, title = "architecture_mismatch", "The tensors do not fit the architecture"


class UnknownArchitecture(InvalidModel):
    code, title = "unknown_architecture", "There is no such architecture"


class NonfiniteWeights(InvalidModel):
    code, title = "nonfinite_weights", "The weights hold NaN or infinity"


class ModelRejected(InvalidInput):
    code, title = "model_rejected", "The model was rejected"


class InvalidDataset(InvalidInput):
    code, title = "invalid_dataset", "The dataset is not valid"


class ObjectArrayRefused(InvalidDataset):
    code, title = "object_array_refused", "Object arrays are pickles and never read"


class EmptyDataset(InvalidDataset):
    code, title = "empty_dataset", "The dataset is empty"


class LabelsOutOfRange(InvalidDataset):
    code, title = "labels_out_of_range", "A label is outside the model's classes"


class DatasetMismatch(InvalidDataset):
    code, title = "dataset_mismatch", "The dataset does not fit the model"


class LimitReached(SecateurError):
    status, code, title, blame = 429, "limit_reached", "A limit is reached", Blame.USER
    retryable, retry_after_s = True, 5


class StorageFull(SecateurError):
    status, code, title = 507, "storage_full", "The server has no room left"
    retryable, retry_after_s, blame = True, 60, Blame.RESOURCE


class Unavailable(SecateurError):
    status, code, title = 503, "unavailable", "A part of the service is not available"
    retryable, retry_after_s, blame = True, 1, Blame.TRANSIENT


class WorkerUnfit(Unavailable):
    """This worker cannot run the job; another one may, or this one later."""

    code, title, blame = "worker_unfit", "The worker cannot run the job", Blame.WORKER


class DeviceUnavailable(WorkerUnfit):
    code, title = "device_unavailable", "The worker's GPU does not work"


class SpecUnknown(WorkerUnfit):
    code, title = "spec_unknown", "The worker's version does not know the job's spec"


class FolderBusy(WorkerUnfit):
    code, title = "folder_busy", "Another process holds the job's work folder"


class JobError(SecateurError):
    """A job ended as failed; the problem is shown to the user under `error`."""

    status, code, title = 500, "job_failed", "The job failed"


class JobTimeout(JobError):
    code, title, blame = "timeout", "The job ran longer than allowed", Blame.USER


class JobCrashLoop(JobError):
    code, title, blame = "crash_loop", "The job's process died too often", Blame.RESOURCE


class SparsityUnreachable(JobError):
    status, code, title, blame = 422, "sparsity_unreachable", "The target cannot be reached", Blame.USER


class PruningRefused(JobError):
    status, code, title, blame = 422, "pruning_refused", "The recipe cannot be applied", Blame.USER


class DivergedTraining(JobError):
    status, code, title, blame = 422, "diverged", "Training diverged", Blame.USER


class SparsityLost(JobError):
    code, title = "sparsity_lost", "A pruned weight did not stay zero"


class NonfiniteAnswers(JobError):
    status, code, title, blame = 422, "nonfinite_answers", "The model answers NaN or infinity", Blame.USER


class OutOfMemory(JobError):
    code, title, blame = "out_of_memory", "The worker has not enough memory", Blame.RESOURCE


class ExportMismatch(JobError):
    code, title = "export_mismatch", "The exported file does not behave like the model in memory"
