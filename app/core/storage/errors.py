"""What can be wrong with stored bytes, or with the store itself."""

from app.core.errors import Blame, SecateurError, StorageFull, Unavailable


class BlobMissing(SecateurError):
    code, title = "blob_missing", "Stored bytes are missing"


class BlobDamaged(SecateurError):
    """The bytes under a digest have another one; they are set aside and never sent as a good answer."""

    code, title = "blob_damaged", "Stored bytes are damaged"


class BlobGone(Unavailable):
    """Bytes were collected, or found damaged, between their upload and the row that speaks of them."""

    code, title = "blob_gone", "The uploaded bytes are gone again"


class StoreUnavailable(Unavailable):
    code, title = "store_unavailable", "The store does not answer"


class StoreNotWritable(StorageFull):
    code, title = "store_not_writable", "The store takes no writes"


class StoreMisconfigured(Unavailable):
    """The store's settings cannot be right: only who runs the service can help."""

    code, title, blame = "store_misconfigured", "The store is not set up", Blame.BUG
    retryable = False
