"""What the parts of a server share, made once by app.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from .._api import runtime_stats
from .._engine import Engine
from .admission import Admission
from .breakers import Breakers
from .drain import Drain
from .errors import ApiError
from .keys import Tenant
from .logs import Logs
from .metrics import Metrics
from .models import LoadedModel, Models, unknown_model
from .options import ServerOptions
from .tenants import Tenants
from .tracing import Tracing


@dataclass
class Services:
    options: ServerOptions
    engine: Engine
    logs: Logs
    metrics: Metrics
    tracing: Tracing
    drain: Drain
    models: Models
    tenants: Tenants
    admission: Admission
    breakers: Breakers

    def engine_stats(self) -> Mapping[str, Any]:
        return runtime_stats(self.engine)

    def find_model(self, name: str | None, tenant: Tenant) -> LoadedModel:
        """The model a request names; without a name, the only or first one there is."""
        allowed = [known for known in self.models.names() if tenant.may_use(known)]
        if name is None and allowed:
            name = allowed[0]
        model = self.models.find(name) if name in allowed and name is not None else None
        if model is None:
            raise unknown_model(name or "")
        return model


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def caller(request: Request) -> Tenant:
    """The tenant whose key the request carries; for endpoints, as a dependency."""
    tenant = services_of(request).tenants.caller(request.headers.get("authorization"))
    request.scope["realm.tenant"] = tenant.name
    return tenant


async def administrator(request: Request) -> Tenant:
    tenant = await caller(request)
    if not tenant.admin:
        raise ApiError(403, "this needs the key of a tenant with `admin = true`", code="admin_only")
    return tenant
