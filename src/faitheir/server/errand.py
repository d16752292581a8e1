"""Work for requests: a bounded number at once, in threads of its own, and given up where nobody waits for it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from faitheir.errors import FaithEIRError

T = TypeVar("T")

Why = Literal["gone", "late", "closing"]


class Stopped(FaithEIRError):  # noqa: N818 (not a fault: nobody waits any more)
    """Work was given up: its client is gone, it took too long, or the server closes."""

    def __init__(self, why: Why) -> None:
        super().__init__(
            {
                "gone": "the client went away.",
                "late": "the request took longer than this server allows; send a smaller picture, or raise --timeout.",
                "closing": "this server is closing; try again in a moment.",
            }[why]
        )
        self.why = why


class Errand:
    """What one request has done for it. ``stop`` from the event loop ends it; ``check`` in the work notices."""

    def __init__(self) -> None:
        #: Whether it is being worked on: it is finished then when the server closes.
        self.running = False
        self._why: Why | None = None
        self._over = asyncio.Event()
        self._flag = threading.Event()

    def stop(self, why: Why) -> None:
        """Give the work up; the first reason counts."""
        if self._why is None:
            self._why = why
            self._flag.set()
            self._over.set()

    def check(self, *_: Any) -> None:
        """Raise Stopped where the work was given up; takes whatever a callback is given."""
        if self._flag.is_set():
            assert self._why is not None
            raise Stopped(self._why)

    async def unless_stopped(self, task: "asyncio.Future[T]") -> T:
        """What ``task`` gives; raises Stopped, and cancels it, where the work is given up before."""
        over: asyncio.Future[Any] = asyncio.ensure_future(self._over.wait())
        either: set[asyncio.Future[Any]] = {task, over}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            if not task.done():
                task.cancel()
        self.check()
        return await task


class Slots:
    """At most ``workers`` pieces of work at once, first come, first served; each in a thread set up by ``begin``."""

    def __init__(self, workers: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        self.waiting = 0
        self.running = 0
        self._free = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=begin)
        # All threads start now: where memory is short later, starting one might never return.
        together = threading.Barrier(workers + 1)
        for _ in range(workers):
            self._threads.submit(together.wait)
        together.wait()

    async def run(self, errand: Errand, work: Callable[[], T]) -> T:
        """What ``work`` gives, in its turn. Raises Stopped as soon as the errand is; its place is free once it ended.

        ``work`` must call ``errand.check`` often.
        """
        free = asyncio.ensure_future(self._free.acquire())
        self.waiting += 1
        try:
            await errand.unless_stopped(free)
        except BaseException:
            if free.done() and not free.cancelled():
                self._free.release()
            raise
        finally:
            self.waiting -= 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except BaseException:
            self._free.release()
            raise
        self.running += 1
        future.add_done_callback(self._done)
        try:
            # A thread cannot be cancelled: the place is held until the work has noticed.
            return await errand.unless_stopped(asyncio.shield(future))
        except asyncio.CancelledError:
            errand.stop("gone")
            raise

    def _done(self, future: "asyncio.Future[Any]") -> None:
        if not future.cancelled():
            future.exception()  # nobody may be waiting for it any more: it is not for the log then
        self.running -= 1
        self._free.release()

    def close(self) -> None:
        """Let the threads end once they have no work."""
        self._threads.shutdown(wait=False)
