"""Compare what rows speak of with what the store has, both ways, and repair what can be repaired."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select

from app.core import accounts, garbage
from app.core.blobs import Blobs
from app.core.db import Sessions, now_plus
from app.core.references import referenced
from app.core.states import BlobState
from app.core.storage import BlobDamaged, BlobMissing, StoredBlob, reading
from app.core.tables import Blob


class FindingKind(StrEnum):
    """What can be wrong between database and store."""

    MISSING = "missing"  # a row speaks of bytes that the store has not
    DAMAGED = "damaged"  # a row speaks of bytes that have another digest or size
    RETURNED = "returned"  # bytes that were noted as missing or damaged, and are there and sound
    UNACCOUNTED = "unaccounted"  # a row speaks of bytes that are there, but have no account
    ORPHAN = "orphan"  # bytes that no row speaks of
    HALF_UPLOAD = "half_upload"  # uploads on this machine that nobody ended


@dataclass(frozen=True)
class Finding:
    kind: FindingKind
    subject: str
    detail: str
    # Whether somebody must act: the collector ends the rest by itself.
    is_fault: bool = True
    is_repaired: bool = False


@dataclass(frozen=True)
class _Account:
    state: BlobState
    size_bytes: int
    is_old: bool


class Reconciler:
    """One comparison of a database with its store; safe beside a running service."""

    def __init__(self, sessions: Sessions, blobs: Blobs, *, grace_s: float, repair: bool) -> None:
        self._sessions, self._blobs = sessions, blobs
        self._grace_s, self._repair = grace_s, repair

    def run(self, *, is_deep: bool, tick: Callable[[int, int], None]) -> list[Finding]:
        """Return what does not fit; deep reads all bytes. `tick` is told how many of how many are done."""
        # The store first: whatever it has by then was announced before, so that the rows read later know it.
        stored = {blob.sha256: blob for blob in self._blobs.bytes.list_older_than(-1.0)}
        with self._sessions() as session:
            known = self._read_accounts()
            used = referenced(session)
        findings: list[Finding] = []
        for done, (sha256, row) in enumerate(sorted(used.items())):
            tick(done, len(used))
            findings += self._check_used(sha256, row, known.get(sha256), is_deep=is_deep)
        tick(len(used), len(used))
        orphans = [blob for sha256, blob in stored.items() if sha256 not in used]
        findings += self._check_orphans(orphans, known)
        findings += self._check_half_uploads()
        return findings

    def _read_accounts(self) -> dict[str, _Account]:
        old = (Blob.touched_at < now_plus(-self._grace_s)).label("is_old")
        with self._sessions() as session:
            rows = session.execute(select(Blob.sha256, Blob.state, Blob.size_bytes, old)).all()
        return {row.sha256: _Account(BlobState(row.state), row.size_bytes, bool(row.is_old)) for row in rows}

    def _check_used(
        self, sha256: str, row: str, account: _Account | None, *, is_deep: bool
    ) -> Iterator[Finding]:
        try:
            size_bytes = self._blobs.bytes.size(sha256)
            if account is not None and account.size_bytes != size_bytes:
                raise BlobDamaged(f"expected {account.size_bytes} bytes, found {size_bytes}")
            if is_deep:
                reading.verify(self._blobs.bytes, sha256)
        except BlobMissing:
            # A running job may have replaced its checkpoint since the rows were read.
            if self._is_still_used(sha256):
                yield self._missing(sha256, row, account)
        except BlobDamaged as error:
            is_repaired = self._repair and self._blobs.quarantine(sha256)
            detail = f"{row}: {error.detail}"
            yield Finding(FindingKind.DAMAGED, sha256, detail, is_repaired=is_repaired)
        else:
            yield from self._check_account(sha256, row, account, size_bytes=size_bytes)

    def _is_still_used(self, sha256: str) -> bool:
        with self._sessions() as session:
            return bool(referenced(session, (sha256,)))

    def _missing(self, sha256: str, row: str, account: _Account | None) -> Finding:
        if account is not None and account.state in (BlobState.DAMAGED, BlobState.MISSING):
            detail = f"{row}: its bytes are gone, and noted as {account.state}"
            return Finding(FindingKind.MISSING, sha256, detail, is_repaired=self._repair)
        repaired = self._repair and self._note(sha256, BlobState.MISSING, size_bytes=0)
        return Finding(
            FindingKind.MISSING, sha256, f"{row}: the store has no such bytes", is_repaired=repaired
        )

    def _check_account(
        self, sha256: str, row: str, account: _Account | None, *, size_bytes: int
    ) -> Iterator[Finding]:
        if account is not None and account.state == BlobState.PRESENT:
            return
        kind = FindingKind.UNACCOUNTED if account is None else FindingKind.RETURNED
        told = "no account" if account is None else f"an account that says {account.state}"
        repaired = self._repair and self._note(sha256, BlobState.PRESENT, size_bytes=size_bytes)
        yield Finding(kind, sha256, f"{row}: its bytes are there, with {told}", is_repaired=repaired)

    def _note(self, sha256: str, state: BlobState, *, size_bytes: int) -> bool:
        with self._sessions.begin() as session:
            accounts.adopt(session, sha256, size_bytes, age_s=0.0)
            known = accounts.read_state(session, sha256)
            return known is not None and accounts.change(session, sha256, state, touches=known[1])

    def _check_orphans(self, orphans: list[StoredBlob], known: dict[str, _Account]) -> list[Finding]:
        lost = [b for b in orphans if b.sha256 not in known and b.age_s > self._grace_s]
        waiting = [b for b in orphans if b.sha256 in known and known[b.sha256].is_old]
        if self._repair and (lost or waiting):
            with self._sessions.begin() as session:
                for blob in lost:
                    # As old as they are: the operator says now what the collector says after a grace more.
                    accounts.adopt(session, blob.sha256, blob.size_bytes, age_s=blob.age_s)
            garbage.collect(self._sessions, self._blobs.bytes, grace_s=self._grace_s)
        return [
            Finding(
                FindingKind.ORPHAN,
                blob.sha256,
                f"{blob.size_bytes:,} bytes that no row speaks of",
                is_fault=blob.sha256 not in known,
                is_repaired=self._repair and not self._blobs.exists(blob.sha256),
            )
            for blob in (*lost, *waiting)
        ]

    def _check_half_uploads(self) -> list[Finding]:
        count = self._blobs.bytes.count_abandoned(self._grace_s)
        if not count:
            return []
        if self._repair:
            self._blobs.bytes.drop_abandoned(self._grace_s)
        detail = "uploads that broke off; a relay on this machine deletes them, or an API when it starts"
        return [
            Finding(FindingKind.HALF_UPLOAD, str(count), detail, is_fault=False, is_repaired=self._repair)
        ]


def tell_ages(findings: list[Finding]) -> Iterator[str]:
    """Say what a restored backup looks like from here: database and store of different moments."""
    missing = sum(f.kind == FindingKind.MISSING for f in findings)
    orphans = sum(f.kind == FindingKind.ORPHAN and f.is_fault for f in findings)
    if missing:
        yield (
            f"Rows speak of {missing} blobs that the store has not: if a backup of it was restored, that "
            "is older than the database. Copy the missing blobs/ from a newer one; otherwise upload the "
            "models and datasets named here again and run the jobs again."
        )
    if orphans:
        yield (
            f"The store has {orphans} blobs that the database never heard of: if a backup of the database "
            "was restored, it is older than the store. Restore a newer one before the collector deletes them."
        )
