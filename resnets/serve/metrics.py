"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "resnets_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "resnets_request_seconds", "From a request's headers to the end of its answer.",
            ["route"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.images = Counter(
            "resnets_images", "Images answered.", ["model"], registry=self.registry
        )
        self.batches = Histogram(
            "resnets_batch_images", "Images given to the network together.",
            ["model"], buckets=SIZES, registry=self.registry,
        )  # fmt: skip
        self.computing = Histogram(
            "resnets_network_seconds", "Time of the network for a batch.",
            ["model"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.queue = Gauge(
            "resnets_queue_images", "Images taken and not yet answered.",
            ["model"], registry=self.registry,
        )  # fmt: skip

    def observer(self, model: str) -> Callable[[int, float], None]:
        """Takes the size and the seconds of each of a model's batches."""
        images, batches = self.images.labels(model), self.batches.labels(model)
        computing = self.computing.labels(model)

        def observe(size: int, seconds: float) -> None:
            images.inc(size)
            batches.observe(size)
            computing.observe(seconds)

        return observe

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Ask for the length of a model's queue whenever metrics are read."""
        self.queue.labels(model).set_function(length)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
