"""A store that is a bucket of S3 or of a server that speaks its protocol, through obstore."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as ObjectStore

from app.core.errors import SecateurError, StorageFull
from app.core.storage.errors import BlobMissing, StoreMisconfigured, StoreNotWritable, StoreUnavailable
from app.core.storage.presign import Credentials, presign
from app.core.storage.protocol import OWNER_KEY, StoredBlob, blob_key
from app.core.storage.staging import StagedFile, abandoned

_log = logging.getLogger(__name__)
# Larger files go up in parts of this size, few at a time: what is in memory does not grow with the file.
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_READ_BYTES = 1 << 20
# A collector that has not spoken for as long is taken for dead: a request is given up long before.
_TAKEOVER_S = 600.0
_FULL = frozenset({"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "StorageQuotaExceeded"})
_WRONG = frozenset({"NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed"})


@dataclass(frozen=True)
class Bucket:
    """Where a bucket is and how long to wait for it; without an endpoint it is one of AWS."""

    name: str
    prefix: str
    region: str
    endpoint: str | None
    public_endpoint: str | None
    credentials: Credentials | None
    request_timeout_s: float = 30.0
    retry_s: float = 60.0

    def url(self, key: str) -> str:
        """Return the public URL of an object."""
        path = "/".join(filter(None, (self.prefix, key)))
        endpoint = self.public_endpoint or self.endpoint
        if endpoint is None:
            return f"https://{self.name}.s3.{self.region}.amazonaws.com/{path}"
        return f"{endpoint.rstrip('/')}/{self.name}/{path}"


class S3Store:
    """Blobs in a bucket; what comes in is staged in a local folder first."""

    def __init__(self, bucket: Bucket, incoming: Path) -> None:
        self._bucket = bucket
        self._incoming = incoming
        incoming.mkdir(parents=True, exist_ok=True)
        self._objects = _connect(bucket)

    @property
    def location(self) -> str:
        at = f" at {self._bucket.endpoint}" if self._bucket.endpoint else f" in {self._bucket.region}"
        return "s3://" + "/".join(filter(None, (self._bucket.name, self._bucket.prefix))) + at

    def stage(self) -> StagedFile:
        return StagedFile(self._incoming, self.put_file)

    def put_file(self, path: Path, sha256: str) -> None:
        """Send a file unless the bucket has it: small ones in one conditional request, others in parts."""
        key, size_bytes = blob_key(sha256), path.stat().st_size
        try:
            if self.size(sha256) == size_bytes:
                return
        except BlobMissing:
            pass
        with _translated(writing=True):
            try:
                # `create` sends the whole file in one request, and so keeps it in memory.
                obstore.put(
                    self._objects,
                    key,
                    path,
                    mode="create" if size_bytes <= _PART_BYTES else "overwrite",
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except AlreadyExistsError:
                if self.size(sha256) != size_bytes:
                    obstore.put(self._objects, key, path, use_multipart=False)

    def size(self, sha256: str) -> int:
        with _translated(sha256):
            return obstore.head(self._objects, blob_key(sha256))["size"]

    def iter_bytes(self, sha256: str, start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return
        with _translated(sha256):
            found = obstore.get(self._objects, blob_key(sha256), options={"range": (start, end)})
            for chunk in found.stream(min_chunk_size=_READ_BYTES):
                yield bytes(chunk)

    def local_path(self, sha256: str) -> None:
        return None

    def signed_url(
        self, sha256: str, method: str, *, expires_s: int, filename: str, media_type: str
    ) -> str | None:
        """Sign with our keys; None when there are none, because the machine itself has a role."""
        if self._bucket.credentials is None:
            return None
        names = {
            "response-content-disposition": f'attachment; filename="{filename}"',
            "response-content-type": media_type,
        }
        url = self._bucket.url(blob_key(sha256))
        return presign(url, self._bucket.credentials, method=method, expires_s=expires_s, parameters=names)

    def delete(self, sha256: str) -> None:
        with _translated(writing=True):
            obstore.delete(self._objects, blob_key(sha256))

    def quarantine(self, sha256: str) -> None:
        try:
            with _translated(sha256, writing=True):
                obstore.rename(self._objects, blob_key(sha256), f"quarantine/{sha256}.{time.time_ns()}")
        except BlobMissing:
            return  # another reader was first

    def list_older_than(self, age_s: float) -> Iterator[StoredBlob]:
        now = datetime.now(UTC)
        with _translated():
            for page in obstore.list(self._objects, prefix="blobs/", chunk_size=1000):
                for row in page:
                    blob_age_s = (now - row["last_modified"]).total_seconds()
                    if age_s < 0 or blob_age_s > age_s:
                        yield StoredBlob(row["path"].rpartition("/")[2], row["size"], blob_age_s)

    def count_abandoned(self, age_s: float) -> int:
        return sum(1 for _ in abandoned(self._incoming, age_s))

    def drop_abandoned(self, age_s: float) -> None:
        for path in abandoned(self._incoming, age_s):
            path.unlink(missing_ok=True)

    @contextmanager
    def collecting(self) -> Iterator[float | None]:
        yield _TAKEOVER_S

    def read_owner(self) -> str | None:
        try:
            with _translated(OWNER_KEY):
                return bytes(obstore.get(self._objects, OWNER_KEY).bytes()).decode()
        except BlobMissing:
            return None

    def write_owner(self, installation: str) -> None:
        with _translated(writing=True):
            obstore.put(self._objects, OWNER_KEY, installation.encode())

    def check(self, *, write: bool) -> None:
        quick = _connect(self._bucket, is_quick=True)
        probe = f"probes/{socket.gethostname()}-{os.getpid()}"
        try:
            with _translated(writing=write):
                if write:
                    obstore.put(quick, probe, b"\0")
                    obstore.delete(quick, probe)
                else:
                    next(iter(obstore.list(quick, prefix="probes/", chunk_size=1)), None)
        except SecateurError as error:
            raise type(error)(
                f"store {self.location}: expected a bucket that these keys may read and write, "
                f"found: {_first_line(error.__cause__)}; create it, or set SECATEUR_STORE_URL and "
                "SECATEUR_STORE_S3_*"
            ) from error
        with StagedFile(self._incoming, self.put_file) as staged:
            staged.write(b"\0")


def _connect(bucket: Bucket, *, is_quick: bool = False) -> ObjectStore:
    keys: dict[str, str] = {}
    if bucket.credentials is not None:
        keys["access_key_id"] = bucket.credentials.access_key_id
        keys["secret_access_key"] = bucket.credentials.secret_access_key
        if bucket.credentials.session_token:
            keys["session_token"] = bucket.credentials.session_token
    if bucket.endpoint is not None:
        keys["endpoint"] = bucket.endpoint
    timeout_s = min(bucket.request_timeout_s, 5.0) if is_quick else bucket.request_timeout_s
    return ObjectStore(
        bucket.name,
        prefix=bucket.prefix or None,
        region=bucket.region,
        virtual_hosted_style_request=bucket.endpoint is None,
        client_options={
            "allow_http": (bucket.endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=min(timeout_s, 5.0)),
            "timeout": timedelta(seconds=timeout_s),
        },
        retry_config={
            "max_retries": 1 if is_quick else 8,
            "retry_timeout": timedelta(seconds=5.0 if is_quick else bucket.retry_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=10),
                "base": 2,
            },
        },
        **keys,  # type: ignore[arg-type]  # names of S3Config, which mypy cannot tell from a dict
    )


class _translated:
    """Turn what obstore raises into our errors; a client of the API is not told about endpoints or keys."""

    def __init__(self, sha256: str | None = None, *, writing: bool = False) -> None:
        self._sha256, self._writing = sha256, writing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if not isinstance(error, (BaseError, FileNotFoundError)):
            return
        text = str(error)
        code = _word(r"<Code>(\w+)</Code>", text)
        status = _word(r"status code: (\d+)", text)
        is_refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        # A HEAD has no body to tell a missing bucket from a missing object: a list tells (see `check`).
        if isinstance(error, FileNotFoundError) and code not in _WRONG and self._sha256 is not None:
            raise BlobMissing(f"the store has no bytes with the digest {self._sha256}") from error
        _log.warning("store refused", extra={"status": status, "code": code, "error": _first_line(error)})
        if code in _FULL or status == "507":
            raise StorageFull("the store has no room left; nothing of this upload was kept") from error
        if code in _WRONG:
            raise StoreMisconfigured("the store's bucket is not there or not where it should be") from error
        if is_refused or status in ("401", "403"):
            if self._writing:
                raise StoreNotWritable("the store refuses to be written with these keys") from error
            raise StoreMisconfigured("the store refuses these keys") from error
        raise StoreUnavailable("the store did not answer in time, or not as it should") from error


def _word(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return None if found is None else found[1]


def _first_line(error: BaseException | None) -> str:
    """Return what happened without the Rust structure below it, and with the server's own word for it."""
    text = str(error)
    code, line = _word(r"<Code>(\w+)</Code>", text), text.splitlines()[0]
    return f"{code} ({line.partition(': <?xml')[0]})" if code else line
