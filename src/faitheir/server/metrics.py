"""What Prometheus reads: requests, seconds by stage, queue, pixels, memory."""

import contextlib
import time
from collections.abc import Callable, Iterator

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """One server's figures, in a registry of their own. Raises MissingDependencyError without prometheus-client."""

    def __init__(self, waiting: Callable[[], float], running: Callable[[], float], held: Callable[[], float]) -> None:
        """``waiting``, ``running``: requests; ``held``: bytes of bodies in memory."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "faitheir_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "faitheir_stage_seconds",
            "Seconds of a request by stage: receive, wait, decode, model, encode, compare.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._pixels = Counter(
            "faitheir_pixels", "Pixels of full-size pictures, by what was made.", ["made"], registry=self.registry
        )
        for name, about, function in (
            ("faitheir_requests_waiting", "Requests that wait for a model.", waiting),
            ("faitheir_requests_running", "Requests that a model works on.", running),
            ("faitheir_body_bytes", "Bytes of requests held in memory.", held),
        ):
            Gauge(name, about, registry=self.registry).set_function(function)

    @contextlib.contextmanager
    def stage(self, name: str, timings: dict[str, float] | None = None) -> Iterator[None]:
        """Count the seconds of a stage, also into ``timings`` where given."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.took(name, seconds)
            if timings is not None:
                timings[name] = timings.get(name, 0) + seconds

    def took(self, name: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        self._seconds.labels(name).observe(seconds)

    def answered(self, route: str, method: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(route, method, str(status)).inc()

    def worked(self, made: str, pixels: int) -> None:
        """Count pixels of the full-size picture of which "thumbnail" or "picture" was made."""
        self._pixels.labels(made).inc(pixels)

    def text(self) -> bytes:
        """The figures, in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
