"""What an operator can set. Defaults suit one machine without a proxy in front."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServerOptions:
    host: str = "127.0.0.1"
    port: int = 8080
    models: tuple[tuple[str, Path], ...] = ()  # (name, file); none: the demo model
    models_dir: Path | None = None  # where /v1/models/load may read files
    keys_file: Path | None = None
    threads: int | None = None
    kv_bytes: int = 0  # memory for KV of running and cached prompts; 0: half of the machine's
    context_length: int = 0  # of models loaded at start; 0: their own
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # clients must present a certificate of this authority
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # accepted Host headers; none: any, but on loopback only its names
    # what may come in
    header_bytes: int = 16 << 10
    header_seconds: float = 10.0
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    connections: int = 1024
    # how much runs, waits, and for how long
    running: int = 64
    waiting: int = 1024
    queue_seconds: float = 10.0  # a request that would wait longer is turned away
    request_seconds: float = 600.0
    write_seconds: float = 30.0  # a client that reads nothing for so long is dropped
    drain_seconds: float = 30.0
    # observing
    log_file: Path | None = None  # None: standard error
    tenant_labels: int = 100  # tenants with metrics of their own; the rest share one label

    @property
    def is_local(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host headers that are served. A page of another site must not reach a server without keys."""
        if self.allowed_hosts or not self.is_local or self.keys_file is not None:
            return self.allowed_hosts
        return (*LOOPBACK, "[::1]", self.host)
