"""Lists: newest first, in pages that do not shift while rows are added, filtered."""

import base64

import pytest

from tests.support import uploads
from tests.support.uploads import job_spec


def walk(client, url: str, **params) -> list[str]:
    ids, cursor = [], None
    while True:
        given = params | ({"cursor": cursor} if cursor else {})
        page = client.get(url, params=given).json()
        ids += [row["id"] for row in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return ids
        cursor = page["next_cursor"]


def test_pages_hold_every_row_once_newest_first(serve):
    client = serve()
    ids = [uploads.upload_model(client).json()["id"] for _ in range(5)]
    for limit in (1, 2, 5, 100):
        assert walk(client, "/v1/models", limit=limit) == ids[::-1]


def test_rows_that_come_while_one_reads_do_not_shift_the_pages(serve):
    client = serve()
    ids = [uploads.upload_model(client).json()["id"] for _ in range(4)]
    first = client.get("/v1/models?limit=2").json()
    uploads.upload_model(client)
    second = client.get("/v1/models", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + second["data"]] == ids[::-1]


def test_jobs_are_filtered_by_status_model_and_labels(client, parts, model_id):
    other = uploads.upload_model(client).json()["id"]
    labels = [{"run": model_id, "a.b": "1"}, {"run": model_id, "a.b": "2"}, {"run": model_id}]
    ids = [
        client.post("/v1/jobs", json=job_spec(m, labels=given)).json()["id"]
        for m, given in zip((model_id, other, other), labels, strict=True)
    ]
    client.post(f"/v1/jobs/{ids[2]}/cancel")
    ours = {"label.run": model_id}
    assert walk(client, "/v1/jobs", **ours) == ids[::-1]
    assert walk(client, "/v1/jobs", **ours, model_id=other) == [ids[2], ids[1]]
    assert walk(client, "/v1/jobs", **ours, status="cancelled") == [ids[2]]
    assert walk(client, "/v1/jobs", **ours, status="queued", limit=1) == [ids[1], ids[0]]
    assert walk(client, "/v1/jobs", **ours, **{"label.a.b": "2"}) == [ids[1]]
    assert walk(client, "/v1/jobs", **ours, **{"label.a.b": "x' OR '1'='1"}) == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=101", "/query/limit"),
        ("limit=x", "/query/limit"),
        ("limit=" + "9" * 5_000, "/query/limit"),
        ("status=done", "/query/status"),
        ("staus=queued", "/query/staus"),
        ("limit=1&limit=2", "/query/limit"),
        ("label.a%20b=1", "/query/label.KEY"),
        ("label.=1", "/query/label.KEY"),
        ("model_id=a%00b", "/query/model_id"),
        ("label.a=%00", "/query/label.a"),
        ("cursor=!!!", "/query/cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'["2026", 3]').decode(), "/query/cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'["2026-01-01T00:00:00", "x"]').decode(), "/query/cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"[" * 300).decode(), "/query/cursor"),
        ("cursor=é", "/query/cursor"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_name(client, query, pointer):
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert answer.json()["errors"][0]["pointer"] == pointer
