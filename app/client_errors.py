"""What can go wrong between a client and a service, beside what the network does."""

from typing import Any

Json = dict[str, Any]  # Any: JSON as the service sent it


class InvalidApiKey(ValueError):
    """A key that no header can hold; it is a secret all the same."""

    def __init__(self) -> None:
        super().__init__("expected an API key of visible ASCII characters, without a space or a line's end")


class Unreachable(Exception):
    """The service did not answer, or answered that it cannot now, in every attempt."""


class NoService(Unreachable):
    """What answers at the URL is something else."""

    def __init__(self, url: object) -> None:
        super().__init__(f"{url} answers, but is no Secateur service")


class DownloadRefused(Exception):
    """A file that the service offers cannot be kept."""


class DigestMismatch(DownloadRefused):
    """A downloaded file is not what the service said; it was deleted."""


class WaitTimeout(Exception):
    """The job has not ended in the given time; it goes on."""


class ApiError(Exception):
    """The service refused; `problem` is what it said, RFC 9457."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"status {status}")
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        return str(self.problem.get("code", f"http_{self.status}"))
