"""Is the service able to work? Each part is asked, and each that cannot is named."""

import logging

from celery import Celery
from sqlalchemy import Engine

from app.core.blobs import Blobs
from app.core.errors import ErrorItem, Unavailable
from app.core.probes import STORE_FULL, probe_broker, probe_database, probe_store

_log = logging.getLogger(__name__)


def check_ready(engine: Engine, store: Blobs, broker: Celery) -> None:
    """Raise Unavailable, with one item a part, unless database, schema, store and broker are ready."""
    faults = [*probe_database(engine), *probe_store(store.bytes, write=False), *probe_broker(broker)]
    # A full store serves what it has, and refuses uploads itself (507): no reason to turn everybody away.
    faults = [fault for fault in faults if fault.code != STORE_FULL]
    if faults:
        _log.warning("not ready", extra={"faults": {one.code: one.found for one in faults}})
        items = tuple(ErrorItem(pointer=f"/{one.part}", code=one.code, detail=one.detail) for one in faults)
        raise Unavailable("; ".join(item.detail for item in items), errors=items)
