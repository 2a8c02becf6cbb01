"""Send what webhooks wait for: signed, to checked addresses, each within its time, many at once."""

import asyncio
import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import certifi
import httpcore
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook as Signer

from app.core import webhooks
from app.core.addresses import RefusedAddress, RefusedUrl, check_url
from app.core.config import Settings
from app.core.db import Sessions
from app.core.logs import log_fields
from app.core.webhooks import Sending
from app.guarded_network import GuardedNetwork

T = TypeVar("T")
_USER_AGENT = "Secateur-Webhooks/1.0"
# One receiver that hangs may hold this many connections and no more.
_PER_WEBHOOK = 2
# Another relay takes over what this one has not ended by then.
_HOLD_FACTOR = 4.0
_SUCCESS = range(200, 300)
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
_log = logging.getLogger(__name__)


class WebhookSender:
    """Runs in a thread of its own with its own loop: a receiver that hangs delays no hint to a worker."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings
        self._rules = settings.sending_rules
        # Names are resolved in asyncio's own threads; a slow resolver must not keep the database waiting.
        self._database = ThreadPoolExecutor(2, thread_name_prefix="webhook-database")

    def run(self, stop: threading.Event) -> None:
        """Send until `stop`; what is being sent then is finished. A bug here stops the whole relay."""
        try:
            asyncio.run(self._run(stop))
        except Exception:
            _log.exception("the sender of webhooks broke")
            raise
        finally:
            stop.set()
            self._database.shutdown()

    async def _run(self, stop: threading.Event) -> None:
        sending: dict[asyncio.Task[None], str] = {}
        async with self._make_pool() as pool:
            while not stop.is_set():
                for done in [task for task in sending if task.done()]:
                    del sending[done]
                    if (bug := done.exception()) is not None:
                        _log.error("webhook not sent", exc_info=bug)  # it is taken up again by its hold
                try:
                    found = await self._take(Counter(sending.values()), len(sending))
                except SQLAlchemyError as error:
                    _log.warning("webhooks wait", extra={"error": type(error).__name__})
                    found = []
                for one in found:
                    sending[asyncio.create_task(self._deliver(pool, one))] = one.webhook_id
                # A full batch means that more may wait.
                await asyncio.sleep(0 if found else self._settings.relay_poll_s)
            if sending:
                await asyncio.wait(sending, timeout=self._settings.shutdown_grace_s)

    def _make_pool(self) -> httpcore.AsyncConnectionPool:
        """Connect anew for each message: no proxy from the environment, no redirect, no connection kept."""
        return httpcore.AsyncConnectionPool(
            ssl_context=_tls(self._settings),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=GuardedNetwork(self._rules),
        )

    async def _take(self, in_flight: Counter[str], total: int) -> list[Sending]:
        room = self._settings.webhook_connections - total
        if room <= 0:
            return []
        busy = [webhook_id for webhook_id, count in in_flight.items() if count >= _PER_WEBHOOK]

        def take() -> list[Sending]:
            with self._sessions.begin() as session:
                return webhooks.take_due(
                    session,
                    limit=room,
                    busy=busy,
                    per_webhook=_PER_WEBHOOK,
                    hold_s=self._settings.webhook_timeout_s * _HOLD_FACTOR,
                )

        return await self._ask_database(take)

    async def _deliver(self, pool: httpcore.AsyncConnectionPool, one: Sending) -> None:
        with log_fields(webhook_id=one.webhook_id, delivery_id=one.delivery_id, job_id=one.job_id):
            status, error = None, ""
            try:
                check_url(one.url, self._rules)  # the rules may have changed since it was written
                async with asyncio.timeout(self._settings.webhook_timeout_s):
                    status = await _post(pool, one)
                if status not in _SUCCESS:
                    error = f"answered {status}"
            except TimeoutError:
                error = f"did not answer within {self._settings.webhook_timeout_s:g} s"
            except (RefusedAddress, RefusedUrl) as refused:
                error = f"not sent: {refused}"
            except (*_BROKEN, OSError) as broken:
                error = f"the connection failed ({type(broken).__name__})"
            except ValueError as unusable:
                # Written before its checks were what they are: a try that is not recorded has no last one.
                error = f"not sent: its URL or its secret cannot be used ({type(unusable).__name__})"
            await self._record(one, status, error)

    async def _record(self, one: Sending, status: int | None, error: str) -> None:
        """Write down how a try ended; what cannot be written is sent again, which is allowed."""

        def record() -> None:
            with self._sessions.begin() as session:
                if error:
                    webhooks.record_failure(session, one, status, error)
                else:
                    assert status is not None
                    webhooks.record_taken(session, one, status)

        fields = {"try": one.number, "status": status}
        if error:
            _log.warning("webhook failed", extra=fields | {"error": error})
        else:
            _log.info("webhook delivered", extra=fields)
        try:
            await self._ask_database(record)
        except SQLAlchemyError as reason:
            _log.warning("delivery not recorded", extra={"error": type(reason).__name__})

    async def _ask_database(self, question: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._database, question)


async def _post(pool: httpcore.AsyncConnectionPool, one: Sending) -> int:
    """Send one message and return the status; the body of the answer is not read."""
    headers: dict[bytes | str, bytes | str] = {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        "webhook-id": one.delivery_id,
        "webhook-timestamp": str(int(one.at.timestamp())),
    }
    if one.secrets:
        signatures = (Signer(secret).sign(one.delivery_id, one.at, one.payload) for secret in one.secrets)
        headers["webhook-signature"] = " ".join(signatures)
    async with pool.stream("POST", one.url, headers=headers, content=one.payload.encode()) as answer:
        return int(answer.status)


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    if settings.webhook_ca_file is not None:
        context.load_verify_locations(cafile=settings.webhook_ca_file)
    return context
