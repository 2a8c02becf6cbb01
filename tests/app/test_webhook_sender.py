"""The sender against real receivers: signed, bounded in time, only to where it may, held up by none."""

import ssl
import threading
from datetime import UTC, datetime

import pytest
import trustme
from sqlalchemy import select, update
from standardwebhooks import Webhook as Signer
from standardwebhooks import WebhookVerificationError

from app.core import schema, webhooks
from app.core.config import Settings
from app.core.db import Sessions, make_engine, make_sessions, now_plus
from app.core.ids import new_id
from app.core.tables import Webhook, WebhookDelivery
from app.webhook_sender import WebhookSender
from tests.support.receiver import Receiver
from tests.support.service import wait_for

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class Bench:
    """A database with webhooks in it, and senders in threads."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.engine = make_engine(f"sqlite:///{folder / 'secateur.db'}")
        schema.upgrade(self.engine)
        self.sessions: Sessions = make_sessions(self.engine)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, url: str, *, messages: int = 1, **changes: object) -> list[str]:
        hook_id = new_id("whk")
        with self.sessions.begin() as session:
            session.add(Webhook(**({"id": hook_id, "url": url, "events": ["*"], "secret": SECRET} | changes)))
            session.flush()
            return [webhooks.put_test(session, hook_id).id for _ in range(messages)]

    def send(self, **changes: object) -> None:
        values = {"data_dir": self.folder, "webhook_allow_loopback": True, "webhook_timeout_s": 2.0}
        sender = WebhookSender(self.sessions, Settings(**(values | changes)))
        thread = threading.Thread(target=sender.run, args=(self._stop,))
        self._threads.append(thread)
        thread.start()

    def row(self, delivery_id: str) -> WebhookDelivery:
        with self.sessions() as session:
            return session.scalars(select(WebhookDelivery).where(WebhookDelivery.id == delivery_id)).one()

    def tried(self, delivery_id: str) -> WebhookDelivery:
        """Wait until a try has ended, and return the row."""

        def ended() -> WebhookDelivery | None:
            row = self.row(delivery_id)
            return row if row.last_status is not None or row.last_error else None

        return wait_for(ended, "a try to end")

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self.engine.dispose()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def receiver():
    with Receiver() as one:
        yield one


def test_the_signature_is_that_of_standard_webhooks():
    # The worked example of the specification's reference libraries.
    at = datetime.fromtimestamp(1614265330, UTC)
    signed = Signer(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_arrives_signed_and_under_its_id(bench, receiver):
    (sent,) = bench.add(f"{receiver.url}/x")
    bench.send()
    assert bench.tried(sent).state == "delivered"
    (got,) = receiver.received
    assert (got.path, got.message_id, got.body.decode()) == ("/x", sent, bench.row(sent).payload)
    assert got.headers["content-type"] == "application/json"
    assert got.is_signed_with(SECRET)
    with pytest.raises(WebhookVerificationError):
        got.is_signed_with(OLD_SECRET)


def test_both_secrets_are_good_while_one_rotates(bench, receiver):
    (sent,) = bench.add(receiver.url, old_secret=OLD_SECRET, old_secret_until=now_plus(3600.0))
    bench.send()
    bench.tried(sent)
    (got,) = receiver.received
    assert got.is_signed_with(SECRET)
    assert got.is_signed_with(OLD_SECRET)


def test_a_callback_without_a_secret_is_sent_unsigned(bench, receiver):
    (sent,) = bench.add(receiver.url, secret=None)
    bench.send()
    bench.tried(sent)
    assert "webhook-signature" not in receiver.received[0].headers


@pytest.mark.parametrize("status", [200, 299])
def test_any_2xx_counts(bench, receiver, status):
    receiver.answer = lambda _: status
    (sent,) = bench.add(receiver.url)
    bench.send()
    row = bench.tried(sent)
    assert (row.state, row.last_status) == ("delivered", status)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_anything_else_fails_and_a_redirect_is_not_followed(bench, receiver, status):
    receiver.answer = lambda _: status
    (sent,) = bench.add(receiver.url)
    bench.send()
    row = bench.tried(sent)
    assert (row.state, row.last_status, row.last_error) == ("pending", status, f"answered {status}")
    assert row.next_try_at > row.last_try_at
    assert {got.path for got in receiver.received} == {"/"}


def test_a_try_that_failed_is_repeated_with_the_same_id_and_body(bench, receiver):
    receiver.answer = lambda _: 500 if len(receiver.received) == 1 else 200
    (sent,) = bench.add(receiver.url)
    bench.send()
    bench.tried(sent)
    with bench.sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(next_try_at=now_plus()))
    wait_for(lambda: bench.row(sent).state == "delivered", "the second try")
    first, second = receiver.received
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert bench.row(sent).tries == 2


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_a_receiver_that_never_answers_is_given_up_in_time(bench, receiver, path):
    (sent,) = bench.add(receiver.url + path)
    bench.send(webhook_timeout_s=0.5)
    assert bench.tried(sent).last_error == "did not answer within 0.5 s"


def test_receivers_that_hang_delay_nobody_else(bench, receiver):
    for path in ("/hang", "/drip"):
        bench.add(receiver.url + path, messages=20)
    sent = bench.add(f"{receiver.url}/fast", messages=30)
    # No try at the others ends within this test: were they waited for, the fast one would get nothing.
    bench.send(webhook_timeout_s=600.0, webhook_connections=8, shutdown_grace_s=0)
    wait_for(lambda: all(bench.row(one).state == "delivered" for one in sent), "the fast receiver's messages")
    slow = [got for got in receiver.received if got.path != "/fast"]
    assert len(slow) <= 4


def test_nothing_is_sent_to_this_machine_unless_the_settings_say_so(bench, receiver):
    (named,) = bench.add(receiver.url)
    port = receiver.url.rpartition(":")[2]
    # The name passes every check of the URL; only the address that it leads to gives it away.
    (resolved,) = bench.add(f"https://localhost:{port}/x")
    bench.send(webhook_allow_loopback=False, webhook_ports=[int(port)])
    assert bench.tried(named).last_error.startswith("not sent: expected https")
    assert "leads to an address that is not public" in bench.tried(resolved).last_error
    assert receiver.received == []


def test_a_receiver_that_is_not_there_is_said(bench):
    (sent,) = bench.add("http://127.0.0.1:9/")
    bench.send()
    assert "the connection failed" in bench.tried(sent).last_error


def test_a_try_with_a_secret_that_cannot_sign_has_failed(bench, receiver):
    (sent,) = bench.add(receiver.url, secret="whsec_" + "a" * 33)
    bench.send()
    row = bench.tried(sent)
    assert (row.state, row.last_error) == (
        "pending",
        "not sent: its URL or its secret cannot be used (Error)",
    )
    assert receiver.received == []


def test_a_proxy_of_the_environment_is_not_used(bench, receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (sent,) = bench.add(receiver.url)
    bench.send()
    assert bench.tried(sent).state == "delivered"


def test_certificates_are_checked_against_the_authorities_that_are_known(bench, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Receiver(context=context) as receiver:
        (unknown,) = bench.add(receiver.url)
        bench.send()
        assert "the connection failed" in bench.tried(unknown).last_error
        assert receiver.received == []
        bench.close()
        again = Bench(tmp_path)
        (known,) = again.add(receiver.url)
        again.send(webhook_ca_file=tmp_path / "ca.pem")
        assert again.tried(known).state == "delivered"
        again.close()


def test_several_senders_deliver_each_message_once_while_none_dies(bench, receiver):
    sent = bench.add(receiver.url, messages=25)
    for _ in range(3):
        bench.send()
    wait_for(lambda: all(bench.row(one).state == "delivered" for one in sent), "all messages")
    assert sorted(got.message_id for got in receiver.received) == sorted(sent)
