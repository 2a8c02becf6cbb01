"""Rows that speak of stored bytes, and rows that no longer do."""

import hashlib

from sqlalchemy import update

from app.core import accounts
from app.core.db import now_plus
from app.core.ids import new_id
from app.core.tables import Dataset


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refer(session, sha256: str) -> str:
    """Add a dataset of one file, as the API does."""
    accounts.refer(session, [sha256])
    dataset = Dataset(
        id=new_id("dst"),
        name="d",
        task="regression",
        format="csv",
        manifest={},
        files={"test": {"name": "f", "sha256": sha256, "size_bytes": 1}},
        splits={},
        sha256=sha256,
        size_bytes=1,
    )
    session.add(dataset)
    session.flush()
    return dataset.id


def forget(sessions, dataset_id: str) -> None:
    with sessions.begin() as session:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(deleted_at=now_plus()))
