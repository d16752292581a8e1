"""The server process: address, signals, and connections that say nothing."""

import asyncio
import json
import socket
import warnings
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faitheir.errors import ConfigError, StorageError, needs, why
from faitheir.pipeline import WeightsMismatchWarning
from faitheir.server import problem
from faitheir.server.app import Access, create_app
from faitheir.server.service import Service

if TYPE_CHECKING:
    import uvicorn

#: Seconds for a request's headers to arrive, and for a connection to be kept without one.
HEADER_SECONDS, IDLE_SECONDS = 20, 5
#: Connections at once; a 503 is the answer to further ones.
CONNECTIONS = 512
_SHORT = json.dumps(problem.as_problem(MemoryError()).body).encode()
#: The answer where memory is short even for a request's body: made beforehand.
_NO_MEMORY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
) % (problem.MEDIA_TYPE.encode(), len(_SHORT), _SHORT)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    service: Service,
    host: str,
    port: int,
    access: Access,
    *,
    browser: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; what is under way is finished then, and what waits is refused.

    ``port``: 0 for any that is free. ``browser``: see `create_app`. ``announce`` gets the address once it is listened
    to. Raises ConfigError for an address that others reach without a token and for such a ``browser``, StorageError
    where it cannot be listened to, and what ``Service.load`` raises.
    """
    with needs("`faitheir serve` needs more packages: pip install 'faitheir[serve]'."):
        import fastapi  # noqa: F401 (is it there?)
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    if access.token is None and not is_loopback(host):
        raise ConfigError(f"{host} can be reached from other machines; give a --token that they must show.")
    # What is to be said of a file is for those who sent it, not for the log.
    warnings.filterwarnings("ignore", category=WeightsMismatchWarning)
    server = make_server(service, access, example=True, browser=browser)
    service.load()
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listening.getsockname()[1]}/")
    server.run([listening])


def make_server(
    service: Service, access: Access, *, example: bool = False, browser: Path | None = None
) -> "uvicorn.Server":
    """A server of a service whose models are loaded, or will be by another thread.

    ``example``, ``browser``: see `create_app`.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, *_: Any) -> None:
            # uvicorn would raise the signal once more at the end: to be told to stop is no failure.
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.close()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            create_app(service, access, example=example, browser=browser),
            http=_protocol(service),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            limit_concurrency=CONNECTIONS,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises StorageError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)
        listening.set_inheritable(False)
    except OSError as error:
        raise StorageError(f"{host}:{port} cannot be listened to ({why(error)}); choose another --port.") from None
    return listening


def _protocol(service: Service) -> type[asyncio.Protocol]:
    """The protocol of uvicorn, with limits on the time that a request's headers, and a client who reads, may take."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        _silent: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _held = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_request()

        def data_received(self, data: bytes) -> None:
            if self._silent is None and self._between:
                self._await_request()
            try:
                super().data_received(data)
            except MemoryError:
                if self.cycle is None or not self.cycle.response_started:
                    self.transport.write(_NO_MEMORY)
                self.transport.close()
            if not self._between and self._silent is not None:
                self._silent.cancel()
                self._silent = None

        def connection_lost(self, exc: Exception | None) -> None:
            if self._silent is not None:
                self._silent.cancel()
            self._hold(0)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._hold(self.transport.get_write_buffer_size())
            self._unread = self.loop.call_later(service.limits.seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._hold(0)
            super().resume_writing()

        def _hold(self, count: int) -> None:
            """What a client has not read yet counts among what is held in memory."""
            service.held += count - self._held
            self._held = count
            if self._unread is not None:
                self._unread.cancel()

        @property
        def _between(self) -> bool:
            """Whether no request is being served."""
            return self.cycle is None or self.cycle.response_complete

        def _await_request(self) -> None:
            self._silent = self.loop.call_later(HEADER_SECONDS, self._drop)

        def _drop(self) -> None:
            self._silent = None
            if self._between and not self.transport.is_closing():
                self.transport.close()

    return Protocol
