"""What a job should do, in plain Python: the model that the database is compared with."""

from dataclasses import dataclass, field

from app.core.job_returns import MAX_SETBACKS

TERMINAL = {"succeeded", "failed", "cancelled"}


class Refused(Exception):
    """The transition cannot be: 409."""


class Stale(Exception):
    """The lease is over."""


@dataclass
class ReferenceJob:
    max_attempts: int
    status: str = "queued"
    attempt: int = 0
    epoch: int = 0
    setbacks: int = 0
    retries: int = 0
    cancel_requested: bool = False
    pause_requested: bool = False
    is_expired: bool = False
    came_from: int | None = None  # the step that the running attempt went on from
    came_to: int | None = None  # the step of its newest checkpoint
    ended: list[str] = field(default_factory=list)  # how each attempt ended, by epoch

    def cancel(self) -> None:
        if self.status in TERMINAL:
            return
        self.cancel_requested = True
        if self.status != "running":
            self.status = "cancelled"

    def pause(self) -> None:
        if self.status == "queued":
            self.status = "paused"
        elif self.status == "running" and not self.cancel_requested:
            self.pause_requested = True
        elif self.status != "paused":
            raise Refused

    def resume(self) -> None:
        if self.status in TERMINAL:
            raise Refused
        if self.status == "paused":
            self.status = "queued"
        self.pause_requested = False

    def retry(self) -> None:
        if self.status not in TERMINAL and self.retries > 0:
            return
        if self.status not in ("failed", "cancelled"):
            raise Refused
        self.status, self.attempt, self.setbacks = "queued", 0, 0
        self.cancel_requested = self.pause_requested = False
        self.retries += 1

    def claim(self) -> bool:
        if self.status != "queued":
            return False
        self.status, self.is_expired = "running", False
        self.came_from = self.came_to = None
        self.attempt += 1
        self.epoch += 1
        return True

    def check(self, epoch: int) -> None:
        if self.status != "running" or self.epoch != epoch:
            raise Stale

    def checkpoint(self, epoch: int, step: int) -> None:
        self.check(epoch)
        self.setbacks = 0
        self.came_to = step

    def resume_from(self, epoch: int, step: int) -> None:
        self.check(epoch)
        self.came_from = step

    @property
    def came_further(self) -> bool:
        if self.came_to is None:
            return False
        return self.epoch == 1 if self.came_from is None else self.came_to > self.came_from

    def end(self, epoch: int, status: str, ended: str) -> None:
        self.check(epoch)
        self.status = status
        self.ended.append(ended)

    def give_back(self, epoch: int, ended: str, *, refund: bool) -> None:
        self.check(epoch)
        if refund:
            self.attempt -= 1
        if self.cancel_requested:
            self.end(epoch, "cancelled", "cancelled")
        elif self.pause_requested:
            self.end(epoch, "paused", ended)
            self.pause_requested = False
        else:
            self.end(epoch, "queued", ended)

    def crash(self, epoch: int, ended: str) -> None:
        self.check(epoch)
        if self.attempt >= self.max_attempts and not self.came_further and not self.cancel_requested:
            self.end(epoch, "failed", ended)
        else:
            self.give_back(epoch, ended, refund=self.came_further)

    def set_back(self, epoch: int) -> None:
        self.check(epoch)
        if self.setbacks >= MAX_SETBACKS and not self.cancel_requested:
            self.end(epoch, "failed", "failed")
            return
        self.setbacks += 1
        self.give_back(epoch, "failed", refund=True)

    def pass_on(self, epoch: int) -> None:
        self.check(epoch)
        self.setbacks = self.setbacks + 1 if self.setbacks < 5 else self.setbacks
        self.give_back(epoch, "failed", refund=True)
