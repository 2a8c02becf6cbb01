"""The only place where a model changes its state: the deep check that a worker does once per upload."""

from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.core import outbox
from app.core.db import now_plus
from app.core.errors import Problem, SecateurError
from app.core.queue import CHECK_MODEL
from app.core.states import ModelStatus
from app.core.tables import Model

MAX_CHECKS = 3


class CheckCrashed(SecateurError):
    """The process that checked a model died each time."""

    status, code, title = 422, "check_crashed", "The model could not be checked"


def begin(session: Session, model_id: str, *, timeout_s: float) -> int | None:
    """Take the check of a model; returns its number, or None when somebody has it or it is done."""
    return session.execute(
        update(Model)
        .where(
            Model.id == model_id,
            Model.status == ModelStatus.VALIDATING,
            or_(Model.checks == 0, Model.hint_at < now_plus()),
        )
        .values(checks=Model.checks + 1, hint_at=now_plus(timeout_s))
        .returning(Model.checks)
    ).scalar_one_or_none()


def accept(session: Session, model_id: str, check: int, *, inspection: dict[str, Any]) -> None:
    """Make the model ready, with what the check found; nothing happens when another check has begun."""
    _conclude(
        session,
        model_id,
        check,
        status=ModelStatus.READY,
        inspection=inspection,
        parameters=inspection["parameters"],
        macs=inspection["macs"],
        input_signature=inspection["input_signature"],
    )


def reject(session: Session, model_id: str, check: int, problem: Problem) -> None:
    """Reject the model with a problem that its owner can read."""
    rejection = problem.model_dump(mode="json")
    _conclude(session, model_id, check, status=ModelStatus.REJECTED, rejection=rejection)


def give_back(session: Session, model_id: str, check: int, *, pause_s: float) -> None:
    """Undo a check that came to no verdict on the model: the sweep hints at it again after the pause."""
    _conclude(session, model_id, check, checks=Model.checks - 1, hint_at=now_plus(pause_s))


def sweep(session: Session, *, hint_again_s: float) -> None:
    """Hint again at checks that nobody took or finished; reject a model that killed every one of them."""
    due = session.execute(
        select(Model.id, Model.checks).where(
            Model.status == ModelStatus.VALIDATING, Model.hint_at < now_plus()
        )
    ).all()
    for model_id, checks in due:
        if checks >= MAX_CHECKS:
            detail = f"the process that checks the model died or hung {checks} times"
            reject(session, model_id, checks, CheckCrashed(detail).problem())
            continue
        if checks == 0:
            later = now_plus(hint_again_s)
            session.execute(update(Model).where(Model.id == model_id).values(hint_at=later))
        outbox.put(session, CHECK_MODEL, model_id)


def _conclude(session: Session, model_id: str, check: int, **values: Any) -> None:  # Any: columns
    session.execute(
        update(Model)
        .where(Model.id == model_id, Model.checks == check, Model.status == ModelStatus.VALIDATING)
        .values(**values)
    )
