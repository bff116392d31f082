"""The description of the interface (OpenAPI) is what the service does, by requests that schemathesis makes from it."""

import contextlib

import pytest

pytest.importorskip("schemathesis", reason="needs pip install 'istvt[test]'")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from istvt.config import METHODS

load_all_checks()
# A form that fits the description holds no video, and is refused; the shared server asks for no token.
LEFT_OUT = {"positive_data_acceptance", "ignored_auth"}


def quick(examples: int):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


@pytest.fixture(scope="module")
def schema(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def check_all(schema, examples: int) -> int:
    """Send so many requests that fit the description, and as many that do not, to each operation; return how many.

    All checks of schemathesis are made but for `LEFT_OUT`.
    """
    operations = [result.ok() for result in schema.get_all_operations()]
    checks = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in LEFT_OUT])
    for operation in operations:
        for mode in GenerationMode:

            @quick(examples)
            @given(case=operation.as_strategy(mode))
            def request(case):
                case.call_and_validate(checks=checks, timeout=30)

            with contextlib.suppress(Unsatisfiable):  # nothing about it can be wrong
                request()
    return len(operations)


def test_requests_made_from_the_description_are_answered_as_it_says(schema):
    assert check_all(schema, 4) == 10


@pytest.mark.exhaustive
def test_many_requests_made_from_the_description_are_answered_as_it_says(schema):
    assert check_all(schema, 100) == 10


def test_the_description_has_examples_and_names_every_method(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    job = document["components"]["schemas"]["Job"]
    assert {"id", "video", "result", "explanations"} <= set(job["example"]) <= set(job["properties"])
    form = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["method"]["enum"] == list(METHODS) and form["example"]["file"]
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    [(media, content)] = answer["content"].items()
                    assert media == "application/problem+json" and content["example"]["status"] == int(status)
