"""The OpenAPI document says what the service does."""

import json

import pytest
from jsonschema import Draft202012Validator

from app.api.openapi import stable_codes
from tests.support import uploads

DATABASES = ("sqlite",)  # another one makes no difference here


@pytest.fixture(scope="module")
def document(client) -> dict:
    return client.get("/openapi.json").json()


def resolve(document: dict, schema: dict) -> dict:
    return schema | {"components": document["components"]}


def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document):
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(schemas)
    assert "ValidationError" not in text
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_answers_problems(document):
    for path in document["paths"].values():
        for operation in path.values():
            content = operation["responses"]["default"]["content"]
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
            assert "422" not in operation["responses"]


def test_the_stable_codes_are_listed(document, client):
    listed = document["components"]["schemas"]["Problem"]["properties"]["code"]["anyOf"][0]["enum"]
    assert listed == stable_codes()
    for code in ("pickle_refused", "idempotency_key_reused", "too_large", "dataset_mismatch", "crash_loop"):
        assert code in listed
    assert client.get("/nowhere").json()["code"] in listed


def test_the_bodies_that_our_own_code_reads_are_described(document, model_id):
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(resolve(document, body))
    validator.validate(uploads.job_spec(model_id))
    assert list(validator.iter_errors({"model_id": model_id, "recipe": {"target": {"value": "0.5"}}}))
    upload = document["paths"]["/v1/models"]["post"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    assert upload["properties"]["manifest"]["$ref"].endswith("/ModelManifest")


def test_answers_are_as_described(document, client, model_id, dataset_id, done_job_id):
    for url, path in (
        (f"/v1/models/{model_id}", "/v1/models/{model_id}"),
        (f"/v1/datasets/{dataset_id}", "/v1/datasets/{dataset_id}"),
        (f"/v1/jobs/{done_job_id}", "/v1/jobs/{job_id}"),
        (f"/v1/jobs/{done_job_id}/events", "/v1/jobs/{job_id}/events"),
        ("/v1/jobs", "/v1/jobs"),
        ("/v1/catalog", "/v1/catalog"),
    ):
        described = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"][
            "schema"
        ]
        Draft202012Validator(resolve(document, described)).validate(client.get(url).json())


def test_the_documentation_page_is_there(client):
    assert "openapi.json" in client.get("/docs").text
