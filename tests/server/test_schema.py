"""schemathesis: requests made from the server's own OpenAPI document, right and wrong ones; none may fail it.

Its data generation is used, not its pytest plug-in, which trails pytest.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.server.live import LiveServer

SETTINGS = hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_fails_the_server(server: LiveServer, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    seen: set[int] = set()
    for operation in operations:

        @SETTINGS
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            if case.method == "DELETE":
                case.path_parameters["model"] = "never-there"  # other tests need those that are
            if isinstance(case.body, dict):  # quick ones
                case.body.pop("ignore_eos", None)
                case.body["max_tokens"] = (
                    3 if mode is GenerationMode.POSITIVE else case.body.get("max_tokens", 3)
                )
            response = case.call(timeout=60)
            seen.add(response.status_code)
            case.validate_response(response, checks=[not_a_server_error])

        if mode is GenerationMode.POSITIVE or operation.method == "post":
            check()
    assert len(operations) >= 11 and max(seen) < 500
    assert 200 in seen if mode is GenerationMode.POSITIVE else 400 in seen


def test_the_document_is_complete(server: LiveServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    native = {"/v1/models/load", "/v1/generate", "/v1/stream", "/v1/models/{model}", "/v1/stats"}
    assert native <= set(paths)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/healthz", "/readyz"} <= set(paths)
    for path in paths.values():
        for operation in path.values():
            assert "422" not in operation["responses"]
