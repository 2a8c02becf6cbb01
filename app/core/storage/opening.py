"""Open the store that the settings name."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.core.config import Settings
from app.core.storage.local import LocalStore
from app.core.storage.presign import Credentials
from app.core.storage.protocol import BlobStore
from app.core.storage.s3 import Bucket, S3Store


def open_store(settings: Settings) -> BlobStore:
    """Open the store behind a `file://` or `s3://` URL; raises ValueError for another."""
    parts = urlsplit(settings.store_url)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(_bucket(settings), settings.data_dir / "incoming")
    found = f"{parts.scheme}://{parts.netloc}"
    raise ValueError(f"store_url: expected file:///folder or s3://bucket/prefix, found {found}")


def _bucket(settings: Settings) -> Bucket:
    parts = urlsplit(settings.store_url)
    return Bucket(
        name=parts.netloc,
        prefix=unquote(parts.path).strip("/"),
        region=settings.store_s3_region,
        endpoint=settings.store_s3_endpoint,
        public_endpoint=settings.store_s3_public_endpoint,
        credentials=_credentials(settings),
        request_timeout_s=settings.store_s3_timeout_s,
        retry_s=settings.store_s3_retry_s,
    )


def _credentials(settings: Settings) -> Credentials | None:
    if settings.store_s3_access_key_id is None or settings.store_s3_secret_access_key is None:
        return None
    token = settings.store_s3_session_token
    return Credentials(
        access_key_id=settings.store_s3_access_key_id,
        secret_access_key=settings.store_s3_secret_access_key.get_secret_value(),
        region=settings.store_s3_region,
        session_token=None if token is None else token.get_secret_value(),
    )
