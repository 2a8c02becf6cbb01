"""The content-addressed store: a file is known by the SHA-256 of its bytes.

`open_store` gives the bytes alone; app.core.blobs.Blobs keeps account of them in the database.
"""

from app.core.storage.errors import (
    BlobDamaged,
    BlobGone,
    BlobMissing,
    StoreMisconfigured,
    StoreNotWritable,
    StoreUnavailable,
)
from app.core.storage.local import LocalStore
from app.core.storage.opening import open_store
from app.core.storage.protocol import BlobStore, StagedBlob, StoredBlob
from app.core.storage.reading import hash_file

__all__ = [
    "BlobDamaged",
    "BlobGone",
    "BlobMissing",
    "BlobStore",
    "LocalStore",
    "StagedBlob",
    "StoreMisconfigured",
    "StoreNotWritable",
    "StoreUnavailable",
    "StoredBlob",
    "hash_file",
    "open_store",
]
