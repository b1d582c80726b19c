"""`realm serve` and `realm serve keys`: options of the command line.

Nothing of the server is imported before it runs, so that the command `realm` starts quickly and needs no
extra.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import error

MISSING = "`realm serve` needs more packages: pip install 'realm-ai[server]'"
DEFAULT_KEYS = Path("realm-keys.toml")

serve_app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Serve models over HTTP: OpenAI's API and Realm's own.",
)
keys_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="API keys of the keys file.")
serve_app.add_typer(keys_app, name="keys")

KeysFile = Annotated[Path, typer.Option("--file", "--keys", metavar="FILE", help="The keys file.")]


def register(app: typer.Typer, guard: Callable[[Callable[..., None]], Callable[..., int]]) -> None:
    """Adds the commands; `guard` turns their exceptions into exit statuses."""
    serve_app.callback(invoke_without_command=True)(guard(serve_command))
    keys_app.command("add")(guard(keys_add))
    keys_app.command("list")(guard(keys_list))
    keys_app.command("remove")(guard(keys_remove))
    app.add_typer(serve_app, name="serve")


def load() -> Any:
    """The server's package, or the one command that installs what it needs."""
    try:
        from . import run
    except ImportError as problem:
        if (problem.name or "").partition(".")[0] == "realm":
            raise
        raise error("unsupported", f"{MISSING} (there is no {problem.name})") from None
    return run


def serve_command(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("-p", "--port", min=0, max=65535, help="0: any free one.")] = 8080,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--model", metavar="[NAME=]FILE", help="May be repeated; without it, the demo model."
        ),
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where POST /v1/models/load may read files.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Tenants and keys (TOML).")] = None,
    threads: Annotated[int | None, typer.Option("-t", "--threads", help="Compute threads.")] = None,
    context_length: Annotated[int, typer.Option(min=0, help="Of each model; 0: its own.")] = 0,
    kv_bytes: Annotated[int, typer.Option(min=0, help="Memory for KV caches; 0: half of the machine's.")] = 0,
    running: Annotated[int, typer.Option(min=1, help="Generations at once.")] = 64,
    waiting: Annotated[int, typer.Option(min=0, help="Generations that may wait for a turn.")] = 1024,
    queue_seconds: Annotated[float, typer.Option(min=0.0, help="Longest wait for a turn.")] = 10.0,
    request_seconds: Annotated[float, typer.Option(min=0.1, help="Longest generation.")] = 600.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for running answers at the end.")
    ] = 30.0,
    body_bytes: Annotated[int, typer.Option(min=1024, help="Longest body of a request.")] = 1 << 20,
    connections: Annotated[int, typer.Option(min=1, help="Open connections.")] = 1024,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Clients must have a certificate of this authority.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages that may call; may be repeated.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Host header to accept; may be repeated.")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Without it, standard error.")] = None,
    tenant_labels: Annotated[int, typer.Option(min=0, help="Tenants with metrics of their own.")] = 100,
) -> None:
    """Serve models over HTTP. Without options: the demo model, on this machine only."""
    if context.invoked_subcommand is not None:
        return
    run = load()
    from .options import ServerOptions

    status = run.serve(
        ServerOptions(
            host=host,
            port=port,
            models=tuple(named_model(text) for text in model or ()),
            models_dir=models_dir,
            keys_file=keys,
            threads=threads,
            context_length=context_length,
            kv_bytes=kv_bytes,
            running=running,
            waiting=waiting,
            queue_seconds=queue_seconds,
            request_seconds=request_seconds,
            drain_seconds=drain_seconds,
            body_bytes=body_bytes,
            connections=connections,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            cors_origins=tuple(cors_origin or ()),
            allowed_hosts=tuple(allowed_host or ()),
            log_file=log_file,
            tenant_labels=tenant_labels,
        )
    )
    if status:
        raise error("io", f"the server could not start; is port {port} taken?")


def named_model(text: str) -> tuple[str, Path]:
    """`NAME=FILE`, or FILE alone: then it is called as the file."""
    name, equals, file = text.partition("=")
    path = Path(file if equals else text)
    return (name if equals else path.stem), path


def keys_add(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")], file: KeysFile = DEFAULT_KEYS
) -> None:
    """Make a key for a tenant and print it: it is shown this once and stored only as a hash."""
    load()
    from .keys import add_key

    print(add_key(file, tenant))


def keys_list(file: KeysFile = DEFAULT_KEYS) -> None:
    """List the ids of keys and whose they are."""
    load()
    from .keys import read_keys

    for record in read_keys(file).keys.values():
        print(f"{record.id} {record.tenant}")


def keys_remove(
    key: Annotated[
        str, typer.Argument(metavar="ID", help="The part of the key between rk- and the next dash.")
    ],
    file: KeysFile = DEFAULT_KEYS,
) -> None:
    """Take a key away; a running server follows within a second."""
    load()
    from .keys import remove_key

    print(f"removed {key} of {remove_key(file, key)}")
