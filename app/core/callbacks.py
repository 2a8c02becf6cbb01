"""Callbacks: webhooks of one job, named in its spec."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from app.core.strict import Strict

Url = Annotated[str, Field(min_length=1, max_length=2000, description="https, and a public address.")]
JobEventName = Literal[
    "*",
    "job.created",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.paused",
    "job.resumed",
    "job.retried",
    "cancel.requested",
    "pause.requested",
    "attempt.started",
    "attempt.ended",
    "stage.started",
    "stage.finished",
]
Events = Annotated[
    tuple[JobEventName, ...],
    Field(min_length=1, max_length=20, description="`*` is all; progress is never sent."),
]
ENDS: tuple[JobEventName, ...] = ("job.succeeded", "job.failed", "job.cancelled")


def _is_base64(secret: str) -> str:
    # Four characters are three bytes, and padding may be left out: one alone is less than a byte.
    if len(secret.removeprefix("whsec_").rstrip("=")) % 4 == 1:
        raise ValueError("expected whsec_ and 24 to 64 bytes in base64, found a length that base64 never has")
    return secret


# 24 to 64 bytes in base64, as Standard Webhooks has it.
Secret = Annotated[str, Field(pattern=r"^whsec_[A-Za-z0-9+/]{32,86}={0,2}$"), AfterValidator(_is_base64)]


class Callback(Strict):
    """Where to send the events of this job. With a `secret` they are signed; it is never shown again."""

    url: Url
    events: Events = ENDS
    secret: Secret | None = Field(default=None, exclude=True, repr=False)
