"""A Flask application with a realm for each of its users, under limits: no server of models beside it.

    pip install realm-ai flask
    flask --app app run

The header X-User only names the user: put your authentication in front of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from flask import Flask, Response, abort, jsonify, request
from flask.typing import ResponseReturnValue
from realm import LimitError, Realm, RealmError, RealmManager, ResourceLimits

LIMITS = ResourceLimits(
    concurrent_requests=2,
    queue_length=4,
    kv_tokens=8192,
    tokens_per_minute=6000,
)


def create_app(limits: ResourceLimits = LIMITS) -> Flask:
    app = Flask(__name__)
    realms = RealmManager(os.environ.get("MODEL"), limits=limits, max_realms=1000)

    def realm_of_user() -> Realm:
        user = request.headers.get("X-User") or abort(401, "send the header X-User")
        return realms.get_or_create(user)

    @app.post("/chat")
    def chat() -> ResponseReturnValue:
        answer = realm_of_user().chat(messages(), max_tokens=256)
        return jsonify(text=answer.text, finish_reason=answer.finish_reason)

    @app.post("/chat/stream")
    def chat_stream() -> ResponseReturnValue:
        stream = realm_of_user().chat_stream(messages(), max_tokens=256)
        first = next(stream, "")  # what fails at once fails with a status

        def pieces() -> Iterator[str]:
            with stream:  # a client that hangs up ends the generation
                yield first
                yield from stream

        return Response(pieces(), mimetype="text/plain")

    @app.get("/usage")
    def usage() -> ResponseReturnValue:
        found = realm_of_user().tenant_stats()
        return jsonify(tokens=found.tokens_prompt + found.tokens_generated, running=found.running)

    @app.errorhandler(LimitError)
    def over_a_limit(problem: LimitError) -> ResponseReturnValue:
        headers = {"Retry-After": str(max(1, round(problem.retry_after or 1)))}
        return jsonify(error=problem.code, limit=problem.limit, message=problem.message), 429, headers

    @app.errorhandler(RealmError)
    def other_errors(problem: RealmError) -> ResponseReturnValue:
        return jsonify(error=problem.code, message=problem.message), 400

    return app


def messages() -> list[dict[str, str]]:
    body = request.get_json()
    found = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(found, list):
        abort(400, "send {'messages': [{'role': 'user', 'content': '...'}]}")
    return found
