"""I7: after the garbage is collected, exactly the bytes of live rows are in the store, and each is right."""

from collections.abc import Iterator

from sqlalchemy import select

from app.core.db import make_sessions
from app.core.garbage import collect
from app.core.states import JobStatus, ModelStatus
from app.core.storage import hash_file
from app.core.tables import Blob, Dataset, JobCheckpoint, Model
from tests.chaos.evidence import Breach, Evidence


def stored_bytes(evidence: Evidence) -> Iterator[Breach]:
    """I7: no orphan, nothing missing, no digest that lies, no scratch of a job that ended."""
    sessions = make_sessions(evidence.cluster.engine)
    collect(sessions, evidence.store, grace_s=0.0)
    wanted = {a.sha256 for artifacts in evidence.artifacts.values() for a in artifacts}
    with sessions() as session:
        for table in (Model, Dataset):
            for row in session.query(table).where(table.deleted_at.is_(None)):
                if getattr(row, "status", None) != ModelStatus.REJECTED:
                    wanted.update(file["sha256"] for file in row.files.values())
        for checkpoint in session.scalars(select(JobCheckpoint)):
            wanted.update(file["sha256"] for file in checkpoint.files.values())
            if evidence.jobs[checkpoint.job_id].status == JobStatus.SUCCEEDED:
                yield Breach("I7", checkpoint.job_id, "it has succeeded, and its checkpoints are still kept")
        accounts = set(session.scalars(select(Blob.sha256)))
    blobs = {path.name: path for path in (evidence.store.root / "blobs").glob("??/*")}
    for sha256 in sorted(wanted - blobs.keys()):
        yield Breach("I7", sha256, "a live row speaks of these bytes, and the store has them not")
    for sha256 in sorted(blobs.keys() - wanted):
        yield Breach("I7", sha256, "no row speaks of these bytes, and they survived the collection")
    for sha256 in sorted(blobs.keys() ^ accounts):
        yield Breach("I7", sha256, "store and accounts do not agree on these bytes")
    for name, path in sorted(blobs.items()):
        if hash_file(path) != name:
            yield Breach("I7", name, "the store holds other bytes under this digest")
    for folder in sorted(evidence.cluster.settings.work_dir.glob("job_*")):
        job = evidence.jobs.get(folder.name)
        if job is None or JobStatus(job.status).is_terminal:
            yield Breach("I7", folder.name, "its work folder is still there, and the job has ended")
