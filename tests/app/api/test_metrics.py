"""Metrics: what Prometheus reads is what the database holds and what clients were answered."""

from prometheus_client.parser import text_string_to_metric_families

import app.services.figures as figures
from app.api.metrics import Metrics
from app.core import job_returns, jobs, outbox, webhooks
from app.core.errors import JobTimeout
from app.core.states import AttemptEnd
from app.core.tables import Webhook
from tests.support import uploads

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read(answer.text)


def read(text: str) -> Samples:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_jobs_are_counted_by_status_and_queue(client, job_id):
    samples = scrape(client)
    with client.app.state.parts.reading_sessions() as session:
        expected = figures.read_figures(session)
    assert value(samples, "secateur_jobs", status="queued") == expected.jobs["queued"] >= 1
    assert value(samples, "secateur_queue_jobs", queue="secateur") == expected.jobs["queued"]
    assert value(samples, "secateur_queue_jobs", queue="secateur.cuda") == 0
    assert value(samples, "secateur_queue_oldest_seconds", queue="secateur") > 0
    assert value(samples, "secateur_database_up") == 1


def test_a_job_that_wants_cuda_waits_in_its_own_queue(client, model_id, dataset_id):
    spec = uploads.job_spec(model_id, dataset_id, resources={"device": "cuda"})
    job_id = client.post("/v1/jobs", json=spec).json()["id"]
    assert value(scrape(client), "secateur_queue_jobs", queue="secateur.cuda") == 1
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert value(scrape(client), "secateur_queue_jobs", queue="secateur.cuda") == 0


def test_every_answer_is_counted_by_the_template_of_its_route(client, job_id):
    labels = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "200"}
    name = "secateur_http_request_seconds_count"
    before = value(scrape(client), name, **labels)
    for _ in range(3):
        client.get(f"/v1/jobs/{job_id}")
    client.get("/v1/nothing/at/all")
    client.request("BREW", "/pot")
    after = scrape(client)
    assert value(after, name, **labels) == before + 3
    assert not [labels for (_, labels) in after if job_id in str(labels) or "pot" in str(labels)]
    assert not [labels for (_, labels) in after if "BREW" in str(labels)]


def test_the_outbox_lags_until_a_relay_has_published(client, job_id, parts):
    samples = scrape(client)
    assert value(samples, "secateur_outbox_messages") >= 1
    assert value(samples, "secateur_outbox_lag_seconds") > 0
    while outbox.publish_pending(parts.sessions, lambda *_: None):
        pass
    samples = scrape(client)
    assert value(samples, "secateur_outbox_messages") == value(samples, "secateur_outbox_lag_seconds") == 0


def test_bytes_in_the_store_are_counted_by_kind(client, tmp_path, done_job_id, dataset_id):
    before = scrape(client)
    uploads.upload_model(client)
    after = scrape(client)
    grown = len(uploads.model_bytes())
    assert value(after, "secateur_store_bytes", kind="models") == (
        value(before, "secateur_store_bytes", kind="models") + grown
    )
    assert value(after, "secateur_store_bytes", kind="artifacts") >= 10
    assert value(after, "secateur_store_bytes", kind="datasets") > 0
    assert value(after, "secateur_store_bytes", kind="checkpoints") == 0


def test_deliveries_are_counted_by_state(client, parts):
    before = value(scrape(client), "secateur_webhook_deliveries", state="pending")
    with parts.sessions.begin() as session:
        session.add(Webhook(id="whk_metrics", url="https://example.org", events=["job.failed"]))
        session.flush()
        webhooks.put_test(session, "whk_metrics")
    samples = scrape(client)
    assert value(samples, "secateur_webhook_deliveries", state="pending") == before + 1
    assert value(samples, "secateur_webhook_due_messages") >= 1


def test_of_webhooks_that_are_off_those_count_that_can_be_turned_on_again(client, parts):
    before = value(scrape(client), "secateur_webhooks_disabled")
    with parts.sessions.begin() as session:
        for name, job_id in (("whk_off", None), ("whk_of_a_job", "job_x")):
            session.add(
                Webhook(id=name, url="https://example.org", events=["*"], enabled=False, job_id=job_id)
            )
    assert value(scrape(client), "secateur_webhooks_disabled") == before + 1


def test_what_happened_is_read_once_each_and_never_twice(parts, job_id, model_id, dataset_id, client):
    with parts.reading_sessions() as session:
        since = figures.read_news(session, None, settle_s=0.0).until
    lease = uploads.start_job(parts, job_id)
    with parts.sessions.begin() as session:
        jobs.record(session, lease, "stage.started", {}, stage="prune")
        jobs.record(session, lease, "stage.finished", {"skipped": False}, stage="prune")
        jobs.record(session, lease, "stage.started", {}, stage="export")
        jobs.record(session, lease, "stage.finished", {"skipped": True}, stage="export")
        jobs.fail(session, lease, JobTimeout("too long").problem())
    lost_id = client.post("/v1/jobs", json=uploads.job_spec(model_id, dataset_id)).json()["id"]
    lost = uploads.start_job(parts, lost_id)
    with parts.sessions.begin() as session:
        job_returns.retry_after_crash(session, lost, "the worker fell silent", ended=AttemptEnd.LOST)
    with parts.reading_sessions() as session:
        news = figures.read_news(session, since, settle_s=0.0)
        again = figures.read_news(session, news.until, settle_s=0.0)
    assert len(news.claim_s) == 2
    assert all(0 <= seconds < 3600 for seconds in news.claim_s)
    assert [stage for stage, _ in news.stage_s] == ["prune"]
    assert news.attempts_ended == {"failed": 1, "lost": 1}
    assert (again.claim_s, again.stage_s, again.attempts_ended) == ([], [], {})
    client.post(f"/v1/jobs/{lost_id}/cancel")
    # One of its own: the service's may have counted the same at another test's scrape.
    metrics = Metrics(cache_s=0.0)
    metrics._count(news)
    samples = read(metrics.render(parts.reading_sessions).decode())
    assert value(samples, "secateur_leases_lost_total") == 1
    assert value(samples, "secateur_attempts_ended_total", ended="failed") == 1
    assert value(samples, "secateur_claim_seconds_count") == 2
    assert value(samples, "secateur_stage_seconds_count", stage="prune") == 1


def test_the_rest_is_told_while_the_database_is_away(serve, tmp_path):
    client = serve()
    client.get("/livez")
    client.app.state.parts.engine.dispose()
    (tmp_path / "secateur.db").rename(tmp_path / "away")
    (tmp_path / "secateur.db").mkdir()
    samples = scrape(client)
    assert value(samples, "secateur_database_up") == 0
    assert (
        value(samples, "secateur_http_request_seconds_count", method="GET", route="/livez", status="200") == 1
    )
    assert ("secateur_queue_jobs", (("queue", "secateur"),)) not in samples


def test_the_database_is_asked_once_in_a_while_however_many_scrape(serve):
    client = serve(metrics_cache_s=3600.0)
    scrape(client)
    client.app.state.parts.engine.dispose()
    uploads.upload_model(client)
    assert value(scrape(client), "secateur_store_bytes", kind="models") == 0
