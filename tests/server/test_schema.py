"""schemathesis: requests made from the server's own OpenAPI document, right and wrong ones; none may fail it,
and each answer is what the document says: status, content type, schema.

Its data generation is used, not its pytest plug-in, which trails pytest.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.live import LiveServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
SETTINGS = hypothesis.settings(
    max_examples=40,
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
                case.body.pop("deadline", None)  # 504 is what a short one asks for
                if mode is GenerationMode.POSITIVE and case.path != "/v1/models/load":
                    case.body["model"] = "demo"  # else few would come further than its name
                case.body["max_tokens"] = (
                    3 if mode is GenerationMode.POSITIVE else case.body.get("max_tokens", 3)
                )
            response = case.call(timeout=60)
            seen.add(response.status_code)
            case.validate_response(response, checks=CHECKS)

        if mode is GenerationMode.POSITIVE or operation.method == "post":
            check()
    assert len(operations) >= 11 and max(seen) < 500
    assert 200 in seen if mode is GenerationMode.POSITIVE else 400 in seen


def test_an_answer_that_is_not_as_documented_is_found(server: LiveServer) -> None:
    """That the checks above can fail: the same answers against a document that was changed."""
    document = server.get("/openapi.json").json()
    document["components"]["schemas"]["ModelReply"]["properties"]["owned_by"] = {"type": "integer"}
    del document["paths"]["/v1/models/{model}"]["get"]["responses"]["404"]
    schema = schemathesis.openapi.from_dict(document)
    for model, wrong in (("demo", "ModelReply"), ("never-there", "404")):
        case = schema["/v1/models/{model}"]["GET"].Case(path_parameters={"model": model})
        with pytest.raises(BaseExceptionGroup) as found:
            case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)
        assert wrong in repr(found.value.exceptions) or "404" not in wrong


def test_the_document_is_complete(server: LiveServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    native = {"/v1/models/load", "/v1/generate", "/v1/stream", "/v1/models/{model}", "/v1/stats"}
    assert native <= set(paths)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/healthz", "/readyz"} <= set(paths)
    for path in paths.values():
        for operation in path.values():
            assert "422" not in operation["responses"]
