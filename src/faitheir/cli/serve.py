"""`faitheir serve`: a page and a REST interface on the local machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from faitheir.cli.options import EPILOG, F, compute_options, fidelity_option


def _limit(name: str, default: int, text: str) -> Callable[[F], F]:
    at_least_one = click.IntRange(min=1)
    return click.option(name, metavar="N", type=at_least_one, default=default, show_default=True, help=text)


@click.command(epilog=EPILOG)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8600,
    show_default=True,
    help="Port to listen at; 0: any that is free.",
)
@click.option(
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    help="Embedded model, model folder, or Hub id (owner/name). May be given several times; the first is the default "
    "of requests. [default: all embedded models]",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="FAITHEIR_TOKEN",
    help="Secret that clients must send (Authorization: Bearer TEXT). Required where other machines reach the address. "
    "In the variable FAITHEIR_TOKEN other users of this machine cannot see it.",
)
@click.option(
    "--origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Another site whose pages may use this server, such as https://example.org. May be given several times.",
)
@click.option(
    "--browser",
    metavar="DIR",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    help="Folder that `npx faitheir-img DIR MODELS` filled: the page then offers to restore in the browser.",
)
@_limit("--max-mb", 64, "Maximum size of a request, in megabytes.")
@_limit("--max-pixels", 50_000_000, "Maximum number of pixels of a photograph, and of a restored picture.")
@_limit("--max-files", 64, "Maximum number of files in a batch.")
@_limit("--queue", 32, "Maximum number of requests running and waiting; further ones are answered with status 429.")
@_limit("--timeout", 300, "Maximum time for a request, in seconds.")
@compute_options(dtype="auto")
@fidelity_option
def serve(
    host: str,
    port: int,
    models: tuple[str, ...],
    token: str | None,
    origins: tuple[str, ...],
    browser: Path | None,
    max_mb: int,
    max_pixels: int,
    max_files: int,
    queue: int,
    timeout: int,
    **options: Any,
) -> None:
    """Serve a page for trying FaithEIR on photographs, and a REST interface.

    Both are at the address that is printed, which only this machine reaches unless --host says otherwise. Nothing
    that is sent is kept. SIGTERM and Ctrl+C end the server once running requests are answered.
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

    run(service, host, port, Access(token, origins, hosts), browser=browser, announce=announce)
