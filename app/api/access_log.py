"""The access log: one line a request, without its query, which may hold what is nobody's business."""

import logging

from app.api.observed import AnsweredRequest

_log = logging.getLogger("app.access")


def log_request(seen: AnsweredRequest) -> None:
    """Log a request that has been answered; its id is a field of every line that it caused."""
    fields = {
        "method": seen.method,
        "path": seen.path,
        "route": seen.route,
        "status": seen.status,
        "elapsed_s": round(seen.elapsed_s, 6),
        "sent_bytes": seen.sent_bytes,
        "client": seen.client,
    }
    _log.info("request", extra=fields | seen.ids)
