"""The process of `realm serve`: checks where it may listen, runs uvicorn, drains at the end."""

from __future__ import annotations

import asyncio
import ssl
from types import FrameType
from typing import Any

import uvicorn

from .._errors import error
from .app import create_app, make_services
from .options import ServerOptions
from .protocol import guarded_protocol
from .services import Services

BACKLOG = 1024
GRACE_SECONDS = 2.0  # for answers that say the time is over
KEEP_ALIVE_SECONDS = 75


def serve(options: ServerOptions) -> int:
    """Serves until a signal ends it; returns the exit status."""
    check_exposure(options)
    check_tls(options)
    services = make_services(options)
    services.logs.take_standard_logging()
    server = DrainingServer(make_config(services), services)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it cannot listen
        return 1
    return 0


def check_exposure(options: ServerOptions) -> None:
    if not options.is_local and options.keys_file is None:
        raise error(
            "invalid-argument",
            f"serving {options.host} without keys would let anybody in: make a file with "
            "`realm serve keys add TENANT` and pass it by --keys",
        )
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise error("invalid-argument", "--tls-cert and --tls-key belong together")


def check_tls(options: ServerOptions) -> None:
    """Before anything is loaded, and in words that name the files."""
    if options.tls_certificate is None or options.tls_key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files: list[object] = [options.tls_certificate, options.tls_key]
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key, password=lambda: b"")
        if options.tls_client_ca is not None:
            files = [options.tls_client_ca]
            context.load_verify_locations(options.tls_client_ca)
    except OSError as problem:  # those of ssl among them
        names = " and ".join(map(str, files))
        raise error(
            "invalid-argument", f"{names} cannot be used for TLS: {problem.strerror or problem}"
        ) from None


def make_config(services: Services) -> uvicorn.Config:
    options = services.options
    return uvicorn.Config(
        create_app(services),
        host=options.host,
        port=options.port,
        http=guarded_protocol(options.header_bytes, options.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=options.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.drain_seconds + GRACE_SECONDS),
        **tls_settings(options),
    )


def tls_settings(options: ServerOptions) -> dict[str, Any]:
    if options.tls_certificate is None:
        return {}
    settings: dict[str, Any] = {"ssl_certfile": options.tls_certificate, "ssl_keyfile": options.tls_key}
    if options.tls_client_ca is not None:
        settings |= {"ssl_ca_certs": str(options.tls_client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return settings


class DrainingServer(uvicorn.Server):
    """Begins to drain at the first signal, ends without waiting at the second."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._services.drain.begin()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        scheme = "https" if self.config.ssl else "http"
        host = f"[{self.config.host}]" if ":" in str(self.config.host) else self.config.host
        print(f"realm: serving on {scheme}://{host}:{port}", flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        services, options = self._services, self._services.options
        services.drain.begin()
        services.logs.log.info("draining", running=services.admission.running)
        timer = asyncio.get_running_loop().call_later(options.drain_seconds, services.drain.expire)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
