"""Prometheus metrics of one server, in a registry of its own. No prompt, key or address is ever a label."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cascade.engine import Engine

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """requests: by route's pattern, method and status. jobs: by how they ended; first_preview, total: seconds of a job.
    engine: None where others have it."""

    def __init__(self, engine: Engine | None):
        self.registry = CollectorRegistry()
        names = ("route", "method", "status")
        self.requests = Counter("cascade_http_requests", "HTTP requests", names, registry=self.registry)
        self.request_s = Histogram(
            "cascade_http_seconds", "Time to the end of an answer", ("route",), buckets=SECONDS, registry=self.registry
        )
        self.jobs = Counter("cascade_jobs", "Jobs by how they ended", ("state",), registry=self.registry)
        self.refused = Counter("cascade_refused", "Requests refused, by code", ("code",), registry=self.registry)
        self.first_preview_s = Histogram(
            "cascade_first_preview_seconds", "From a job's start", buckets=SECONDS, registry=self.registry
        )
        self.total_s = Histogram("cascade_job_seconds", "From start to end", buckets=SECONDS, registry=self.registry)
        self.streams = Gauge("cascade_streams", "Event streams that are open", registry=self.registry)
        self.open_jobs = Gauge("cascade_open_jobs", "Jobs queued or running", registry=self.registry)
        self.store_bytes = Gauge("cascade_store_bytes", "Pictures on disk", registry=self.registry)
        self.unsaved = Gauge("cascade_unsaved_images", "Pictures that wait for the disk", registry=self.registry)
        if engine is not None:
            self.registry.register(_EngineStats(engine))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _EngineStats(Collector):
    """Read from the engine when somebody asks."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield GaugeMetricFamily("cascade_engine_alive", "1 while every thread ticks", value=self.engine.is_alive)
        yield GaugeMetricFamily("cascade_waiting_images", "Accepted and not finished", value=self.engine.waiting)
        batch = GaugeMetricFamily("cascade_stage_batch", "Rows of a network call at most", labels=["stage"])
        counted = {
            key: CounterMetricFamily(f"cascade_stage_{key}", text, labels=["stage"])
            for key, text in (
                ("calls", "Network calls"),
                ("rows", "Rows of network calls"),
                ("images", "Images that a stage finished"),
                ("busy_s", "Seconds in the network"),
            )
        }
        for name, stage in self.engine.stages.items():
            batch.add_metric([name], stage.batch)
            for key, family in counted.items():
                family.add_metric([name], getattr(stage, key))
        yield batch
        yield from counted.values()
