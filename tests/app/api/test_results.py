"""Results over HTTP: masks as bits, artifacts in ranges, a report only when there is one."""

import base64
import hashlib

import numpy as np
import pytest

from app.core import jobs
from app.core.errors import JobTimeout
from tests.support import uploads
from tests.support.uploads import MASK_NAME

BODY = b"0123456789"
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def artifact(done_job_id) -> str:
    return f"/v1/jobs/{done_job_id}/artifacts/model.safetensors"


def test_nothing_is_there_before_a_job_has_ended(client, job_id):
    report = client.get(f"/v1/jobs/{job_id}/report")
    assert (report.status_code, report.json()["code"]) == (409, "not_ready")
    for kind in ("layers", "masks", "artifacts", "attempts"):
        assert client.get(f"/v1/jobs/{job_id}/{kind}").json()["data"] == []
    assert client.get(f"/v1/jobs/{job_id}/masks/{MASK_NAME}").status_code == 404
    assert client.get(f"/v1/jobs/{job_id}/artifacts/model.safetensors").status_code == 404


def test_a_job_that_failed_has_its_problem_and_no_report(client, parts, job_id):
    lease = uploads.start_job(parts, job_id)
    with parts.sessions.begin() as session:
        jobs.fail(session, lease, JobTimeout("it ran longer than 5 s").problem())
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["error"]["code"], job["error"]["detail"]) == (
        "failed",
        "timeout",
        "it ran longer than 5 s",
    )
    report = client.get(f"/v1/jobs/{job_id}/report")
    assert (report.status_code, report.json()["code"]) == (404, "not_found")


def test_a_report_comes_as_json_and_in_no_form_that_is_not_there(client, done_job_id):
    assert client.get(f"/v1/jobs/{done_job_id}/report").json()["report_schema"] == "1.0"
    assert client.get(f"/v1/jobs/{done_job_id}/report?format=json").status_code == 200
    other = client.get(f"/v1/jobs/{done_job_id}/report?format=html")
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/query/format")
    assert "json" in other.json()["detail"]


def test_a_mask_is_its_bits_with_its_shape(client, done_job_id):
    [row] = client.get(f"/v1/jobs/{done_job_id}/masks").json()["data"]
    assert (row["name"], row["shape"], row["sparsity"]) == (MASK_NAME, [300, 16], 0.5)
    answer = client.get(f"/v1/jobs/{done_job_id}/masks/{row['name']}")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Mask-Shape"] == "300,16"
    assert hashlib.sha256(answer.content).hexdigest() == row["sha256"]
    bits = np.unpackbits(np.frombuffer(answer.content, np.uint8), bitorder="little", count=300 * 16)
    assert bits.reshape(300, 16).mean() == 0.5
    tag = {"If-None-Match": answer.headers["ETag"]}
    assert client.get(f"/v1/jobs/{done_job_id}/masks/{row['name']}", headers=tag).status_code == 304


@pytest.mark.parametrize("name", ["fc1", "fc1.weight.", "a/b", "%2e%2e", "x" * 5000])
def test_a_mask_that_is_not_there_is_not_found(client, done_job_id, name):
    assert client.get(f"/v1/jobs/{done_job_id}/masks/{name}").status_code == 404


def test_an_artifact_is_described_before_it_is_sent(client, done_job_id, artifact):
    [row] = client.get(f"/v1/jobs/{done_job_id}/artifacts").json()["data"]
    assert (row["name"], row["sha256"], row["size_bytes"]) == ("model.safetensors", SHA256, len(BODY))
    head = client.head(artifact)
    got = client.get(artifact)
    assert (head.status_code, head.content, got.content) == (200, b"", BODY)
    for name in (
        "Content-Length",
        "ETag",
        "Repr-Digest",
        "Accept-Ranges",
        "Content-Disposition",
        "Content-Type",
    ):
        assert head.headers[name] == got.headers[name]
    assert got.headers["ETag"] == f'"{SHA256}"'
    assert got.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"
    assert got.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    # A retry may write other bytes under the same name.
    assert got.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, BODY, "bytes 0-9/10"),
        ("bytes=9-100", 206, b"9", "bytes 9-9/10"),
        ("BYTES = 0 - 0", 206, b"0", "bytes 0-0/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=99999999-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=5-3", 200, BODY, None),
        ("bytes=", 200, BODY, None),
        ("bytes=-", 200, BODY, None),
        ("bytes=a-b", 200, BODY, None),
        ("items=0-3", 200, BODY, None),
        ("bytes=0-1,4-5", 200, BODY, None),
        ("bytes=" + "0-," * 1000, 200, BODY, None),
        ("bytes=" + "9" * 500 + "-", 200, BODY, None),
    ],
)
def test_a_range_is_sent_or_refused_or_ignored_as_the_standard_says(
    client, artifact, wanted, status, body, content_range
):
    answer = client.get(artifact, headers={"Range": wanted})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    if body is None:
        assert (answer.headers["Content-Type"], answer.json()["code"]) == (
            "application/problem+json",
            "range_not_satisfiable",
        )
    else:
        assert (answer.content, answer.headers["Content-Length"]) == (body, str(len(body)))
        assert answer.headers["Repr-Digest"] == client.head(artifact).headers["Repr-Digest"]


def test_a_range_of_another_file_than_the_client_has_is_not_sent(client, artifact):
    half = {"Range": "bytes=5-"}
    assert client.get(artifact, headers=half | {"If-Range": f'"{SHA256}"'}).status_code == 206
    for other in ('"x"', f'W/"{SHA256}"', "Sun, 22 Nov 2026 00:00:00 GMT"):
        answer = client.get(artifact, headers=half | {"If-Range": other})
        assert (answer.status_code, answer.content) == (200, BODY)


def test_an_artifact_that_the_client_has_is_not_sent_again(client, artifact):
    for method in ("GET", "HEAD"):
        answer = client.request(
            method, artifact, headers={"If-None-Match": f'"{SHA256}"', "Range": "bytes=0-1"}
        )
        assert (answer.status_code, answer.content) == (304, b"")


def test_an_empty_artifact_is_sent(client, parts, job_id, tmp_path):
    uploads.finish_job(parts, job_id, tmp_path, artifact=b"")
    url = f"/v1/jobs/{job_id}/artifacts/model.safetensors"
    assert (client.get(url).status_code, client.get(url).content) == (200, b"")
    assert client.get(url, headers={"Range": "bytes=0-"}).status_code == 416


@pytest.mark.parametrize("name", ["../model.safetensors", "%2e%2e%2fmodel", "other", "a%00"])
def test_an_artifact_that_is_not_there_is_not_found(client, done_job_id, name):
    assert client.get(f"/v1/jobs/{done_job_id}/artifacts/{name}").status_code == 404


def test_a_large_artifact_comes_whole_and_in_ranges_over_a_socket(live, client, parts, job_id, tmp_path):
    data = np.random.default_rng(0).bytes(3_000_001)
    uploads.finish_job(parts, job_id, tmp_path, artifact=data)
    url = f"/v1/jobs/{job_id}/artifacts/model.safetensors"
    with live.http() as http:
        assert http.get(url).content == data
        assert http.get(url, headers={"Range": "bytes=999999-2000000"}).content == data[999_999:2_000_001]
        assert http.head(url).headers["Content-Length"] == "3000001"


def test_a_file_that_is_gone_from_the_store_is_our_error_and_says_so(client, parts, job_id, tmp_path):
    uploads.finish_job(parts, job_id, tmp_path, artifact=b"soon gone")
    parts.store.bytes.delete(hashlib.sha256(b"soon gone").hexdigest())
    answer = client.get(f"/v1/jobs/{job_id}/artifacts/model.safetensors")
    assert (answer.status_code, answer.json()["code"]) == (500, "blob_missing")
