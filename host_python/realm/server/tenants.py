"""A realm for each tenant, made at its first request; limits follow the keys file while everything runs."""

from __future__ import annotations

import asyncio

from .._api import Realm
from .._errors import GuestError, RealmError
from .._manager import RealmManager
from .._tenant import TenantStats
from .keys import Keys, KeySet, Tenant
from .logs import Log
from .metrics import Metrics
from .models import LoadedModel, unknown_model


class Tenants:
    def __init__(self, keys: Keys, manager: RealmManager, metrics: Metrics, log: Log) -> None:
        self.keys = keys
        self.manager = manager
        self._metrics = metrics
        self._log = log
        self._making = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._has: dict[
            tuple[str, str], LoadedModel
        ] = {}  # (tenant, model's name) -> what its realm was given

    def caller(self, authorization: str | None) -> Tenant:
        if self.keys.refresh():
            self._adopt(self.keys.current)
        return self.keys.tenant(authorization)

    async def realm(self, tenant: Tenant, model: LoadedModel) -> Realm:
        """The tenant's realm, with this model granted."""
        if not tenant.may_use(model.name):
            raise unknown_model(model.name)
        if tenant.name in self.manager and self._has.get((tenant.name, model.name)) is model:
            return self.manager.get(tenant.name)
        async with self._making:
            realm = await asyncio.to_thread(self._get_or_create, tenant)
            if self._has.get((tenant.name, model.name)) is not model:
                await asyncio.to_thread(realm.load_model, model.handle)
                self._has[tenant.name, model.name] = model
            self._metrics.realms.set(len(self.manager))
            return realm

    async def retire(self, tenant: Tenant, problem: BaseException) -> None:
        """A guest that trapped is gone: the tenant's next request gets a new realm."""
        if not isinstance(problem, GuestError) or tenant.name not in self.manager:
            return
        self._log.error("guest failed", tenant=tenant.name, code=problem.code, message=problem.message)
        await self._close(tenant.name)

    async def take_model(self, model: LoadedModel) -> None:
        """Takes a model away from every realm; what runs on it ends with `closed`."""
        holders = [name for (name, _), held in self._has.items() if held is model]
        for name in holders:
            del self._has[name, model.name]
            try:
                await asyncio.to_thread(self.manager.get(name).unload_model, model.handle)
            except RealmError as problem:  # the realm went away meanwhile
                self._log.info("model was not taken", tenant=name, model=model.name, code=problem.code)

    def close(self) -> None:
        self.manager.shut_down()

    def stats(self, name: str) -> TenantStats | None:
        return self.manager.stats(name) if name in self.manager else None

    def _get_or_create(self, tenant: Tenant) -> Realm:
        if tenant.name in self.manager:
            if not self.manager.get(tenant.name).stopped:
                return self.manager.get(tenant.name)
            self.manager.close(tenant.name)
        return self.manager.create(tenant.name, tenant.limits, models=())

    async def _close(self, name: str) -> None:
        for key in [key for key in self._has if key[0] == name]:
            del self._has[key]
        await asyncio.to_thread(self.manager.close, name)
        self._metrics.realms.set(len(self.manager))

    def _adopt(self, current: KeySet) -> None:
        """The keys file changed: new limits hold at once, tenants that are gone lose their realms."""
        self._metrics.keys_problem.set(self.keys.problem is not None)
        if self.keys.problem is not None:
            self._log.error("keys file not taken over", problem=self.keys.problem)
            return
        self._log.info("keys file read", tenants=len(current.tenants), keys=len(current.keys))
        for name in self.manager.ids():
            if name in current.tenants:
                self.manager.set_limits(name, current.tenants[name].limits)
            else:
                task = asyncio.get_running_loop().create_task(self._close(name))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
