"""`RealmManager`: one realm for each tenant of an application, by the application's own ids."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from typing import overload

from ._api import Realm
from ._errors import error, limit_error
from ._model import Model
from ._options import ResourceLimits
from ._runtime import GuestModule, read_wasm
from ._tenant import NAMED, TenantStats

ModelLike = Model | str | os.PathLike[str]


class RealmManager:
    """Creates, finds, limits and closes the realms of many tenants. Close it, or use it in a `with`.

    A tenant's limits and share follow its id: closing its realm and creating another is no way around a rate.
    """

    def __init__(
        self,
        model: ModelLike | None = None,
        *,
        limits: ResourceLimits | None = None,
        backend: str = "auto",
        threads: int | None = None,
        cpu_features: Sequence[str] | None = None,
        max_realms: int = 0,
        kv_bytes: int = 0,
        executor: int = 0,
    ) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._key = secrets.token_bytes(16)
        self._realms: dict[str, Realm] = {}
        self._guests: dict[str, list[GuestModule]] = {}  # own ones, by tenant
        self._settings = {
            "backend": backend,
            "threads": threads,
            "cpu_features": cpu_features,
            "kv_bytes": kv_bytes,
            "executor": executor,
        }
        self.default_limits = limits or ResourceLimits()
        self.max_realms = max_realms
        self._home = Realm(**self._settings)  # type: ignore[arg-type]  # keeps the default model loaded
        if model is not None:
            self._home.load_model(model)

    def __enter__(self) -> RealmManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()

    def __len__(self) -> int:
        return len(self._realms)

    def __contains__(self, tenant: object) -> bool:
        return tenant in self._realms

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._realms)

    @property
    def model(self) -> Model:
        """The model realms get when they are given none."""
        return self._home.model

    # ---- realms ----

    def create(
        self, tenant: str, limits: ResourceLimits | None = None, models: Sequence[ModelLike] | None = None
    ) -> Realm:
        """A realm for a tenant that has none. `models`: those it is given instead of the manager's."""
        with self._lock:
            self._check_new(tenant)
            realm = Realm(
                limits=limits or self.default_limits,
                tenant=self._number(tenant),
                **self._settings,  # type: ignore[arg-type]
            )
            try:
                for model in (self.model,) if models is None else models:
                    realm.load_model(model)
            except BaseException:
                realm.close()
                raise
            self._realms[tenant] = realm
            return realm

    def get(self, tenant: str) -> Realm:
        with self._lock:
            if tenant not in self._realms:
                raise error("not-found", f"there is no realm of tenant {tenant!r}; create it first")
            return self._realms[tenant]

    def get_or_create(self, tenant: str, limits: ResourceLimits | None = None) -> Realm:
        """The tenant's realm; one that its guest ended is replaced. `limits` are those of a new one."""
        with self._lock:
            found = self._realms.get(tenant)
            if found is not None and not found.stopped:
                return found
            if found is not None:
                limits = limits or found.limits
                self.close(tenant)
            return self.create(tenant, limits)

    def load_guest(self, tenant: str, source: str | os.PathLike[str] | bytes) -> GuestModule:
        """An own guest module of a tenant that may have one (`own_guest`), under the same limits."""
        realm = self.get(tenant)
        if not realm.limits.own_guest:
            raise limit_error(
                "limit-exceeded", f"tenant {tenant!r} may not bring guest modules", "own_guest", 0
            )
        realm._check_open()
        module = realm._engine.sandbox.module(read_wasm(source))
        guest = GuestModule(realm._engine, module, realm.limits, realm._tenant)
        with self._lock:
            self._guests.setdefault(tenant, []).append(guest)
        return guest

    def close(self, tenant: str) -> None:
        """Ends the tenant's realm, its own guests and what runs in them."""
        self.get(tenant)
        self._close(tenant)

    def close_all(self) -> None:
        for tenant in self.ids():
            self._close(tenant)

    def shut_down(self) -> None:
        """Closes all realms and gives the model back; the manager is of no use afterwards."""
        with self._lock:
            self._closed = True
        self.close_all()
        self._home.close()

    # ---- limits and numbers ----

    def set_limits(self, tenant: str, limits: ResourceLimits) -> None:
        """Other limits from now on, also for what runs; of the guest's memory and time, for the next."""
        self.get(tenant).set_limits(limits)

    @overload
    def stats(self, tenant: str) -> TenantStats: ...
    @overload
    def stats(self) -> dict[str, TenantStats]: ...
    def stats(self, tenant: str | None = None) -> TenantStats | dict[str, TenantStats]:
        """Of one tenant, or of all that have a realm."""
        if tenant is not None:
            return self.get(tenant).tenant_stats()
        with self._lock:
            realms = dict(self._realms)
        return {name: realm.tenant_stats() for name, realm in realms.items()}

    # ---- inside ----

    def _close(self, tenant: str) -> None:
        with self._lock:
            realm = self._realms.pop(tenant, None)
            guests = self._guests.pop(tenant, [])
        for guest in guests:
            guest.close()
        if realm is not None:
            realm.close()

    def _check_new(self, tenant: str) -> None:
        if self._closed:
            raise error("closed", "this manager was closed; make a new one")
        if not isinstance(tenant, str) or not tenant:
            raise error(
                "invalid-argument", f"a tenant's id must be a text that is not empty, not {tenant!r:.80}"
            )
        if tenant in self._realms:
            raise error(
                "invalid-argument", f"tenant {tenant!r} has a realm already; get it, or close it first"
            )
        if self.max_realms and len(self._realms) >= self.max_realms:
            raise limit_error(
                "limit-exceeded",
                f"there are {self.max_realms} realms already; close one, or raise max_realms",
                "max_realms",
                self.max_realms,
            )

    def _number(self, tenant: str) -> int:
        """The same for an id while the manager lives: accounts outlive realms. Not to be guessed."""
        data = tenant.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8, key=self._key).digest()
        return NAMED | int.from_bytes(digest, "little") >> 2
