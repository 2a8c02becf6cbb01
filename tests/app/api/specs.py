"""Specs of jobs, and what is said of those that cannot be."""

TRAIN = {"epochs": 2}


def errors_of(answer) -> dict[str, str]:
    return {item["pointer"]: item["code"] for item in answer.json()["errors"]}


def recipe(**changes):
    return {"recipe": {"target": {"value": 0.5}} | changes}


def structure(**changes):
    return {"structure": {"target": {"metric": "macs", "value": 100_000}} | changes}
