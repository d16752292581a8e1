"""`faitheir serve`: a page and a REST interface on the local machine."""

from typing import Any

import click

from faitheir.cli.options import EPILOG, compute_options, fidelity_option


@click.command(epilog=EPILOG)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="0: any that is free.")
@click.option(
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    help="An embedded model, a model's folder, or a Hub id owner/name. May be given several times; the first is used "
    "where a request names none. [default: all embedded models]",
)
@click.option(
    "--token",
    envvar="FAITHEIR_TOKEN",
    help="What clients must show (Authorization: Bearer TOKEN). Needed for an address that other machines reach; "
    "better set as FAITHEIR_TOKEN, where other users of this machine cannot see it.",
)
@click.option(
    "--origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Another site whose pages may use this server, such as https://example.org. May be given several times.",
)
@click.option("--max-mb", type=click.IntRange(min=1), default=64, show_default=True, help="Megabytes of one request.")
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=50_000_000,
    show_default=True,
    help="Pixels of one photograph, and of one picture restored.",
)
@click.option("--max-files", type=click.IntRange(min=1), default=64, show_default=True, help="Files of one batch.")
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Requests that run and wait at once; further ones are answered 429.",
)
@click.option(
    "--timeout", type=click.IntRange(min=1), default=300, show_default=True, help="Seconds for one request, at most."
)
@compute_options(dtype="auto")
@fidelity_option
def serve(
    host: str,
    port: int,
    models: tuple[str, ...],
    token: str | None,
    origins: tuple[str, ...],
    max_mb: int,
    max_pixels: int,
    max_files: int,
    queue: int,
    timeout: int,
    **options: Any,
) -> None:
    """Open a page for trying FaithEIR on photographs, and a REST interface.

    Both are at the address that is printed, for this machine only unless --host says otherwise. Nothing that is sent
    is kept. SIGTERM or Ctrl+C finishes what is under way.
    """
    from faitheir.devices import keep_freed_memory
    from faitheir.models import DEFAULT_MODEL, embedded_models
    from faitheir.server.app import Access
    from faitheir.server.run import is_loopback
    from faitheir.server.run import serve as run
    from faitheir.server.service import Limits, Service

    if token is None and not is_loopback(host):
        raise click.UsageError(f"{host} can be reached from other machines; give a --token that they must show.")
    keep_freed_memory()
    limits = Limits(
        body_bytes=max_mb * 2**20,
        held_bytes=4 * max_mb * 2**20,
        pixels=max_pixels,
        files=max_files,
        queue=queue,
        seconds=timeout,
    )
    names = models or sorted(embedded_models(), key=lambda name: name != DEFAULT_MODEL)
    # Without a token, no page elsewhere may reach this server by having a name of its own resolve to this machine.
    hosts = {"127.0.0.1", "localhost", "::1", host} if token is None else None
    service = Service(names, limits=limits, **options)

    def announce(address: str) -> None:
        click.echo(f"FaithEIR is at {address}  (Ctrl+C ends it)")

    run(service, host, port, Access(token, origins, hosts), announce=announce)
