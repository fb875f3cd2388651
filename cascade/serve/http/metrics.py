"""Prometheus metrics of one server, in a registry of its own. No prompt, key or address is ever a label."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cascade.engine.engine import Engine

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class HttpMetrics:
    """Of the process with the socket. requests: by route's pattern, method and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("route", "method", "status")
        self.requests = Counter("cascade_http_requests", "HTTP requests", names, registry=self.registry)
        self.request_s = Histogram(
            "cascade_http_seconds", "Time to the end of an answer", ("route",), buckets=SECONDS, registry=self.registry
        )
        self.refused = Counter("cascade_refused", "Requests refused, by code", ("code",), registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Metrics(HttpMetrics):
    """And of the engine. jobs: by how they ended; first_preview, total: seconds of a job."""

    def __init__(self, engine: Engine):
        super().__init__()
        self.jobs = Counter("cascade_jobs", "Jobs by how they ended", ("state",), registry=self.registry)
        self.first_preview_s = Histogram(
            "cascade_first_preview_seconds", "From a job's start", buckets=SECONDS, registry=self.registry
        )
        self.total_s = Histogram("cascade_job_seconds", "From start to end", buckets=SECONDS, registry=self.registry)
        self.streams = Gauge("cascade_streams", "Event streams that are open", registry=self.registry)
        self.open_jobs = Gauge("cascade_open_jobs", "Jobs queued or running", registry=self.registry)
        self.store_bytes = Gauge("cascade_store_bytes", "Pictures on disk", registry=self.registry)
        self.unsaved = Gauge("cascade_unsaved_images", "Pictures that wait for the disk", registry=self.registry)
        self.registry.register(_EngineStats(engine))


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
        for name, stats in self.engine.stats.items():
            batch.add_metric([name], stats.batch)
            for key, family in counted.items():
                family.add_metric([name], getattr(stats, key))
        yield batch
        yield from counted.values()


def merged(own: str, replicas: Mapping[int, str]) -> bytes:
    """One text of several: what replica K says gets the label replica="K". A family without samples, as those of requests in a
    process without a socket, is left out."""
    families: dict[str, Metric] = {}
    labelled = [({}, own), *(({"replica": str(number)}, text) for number, text in sorted(replicas.items()))]
    for more, text in labelled:
        for found in text_string_to_metric_families(text):
            if found.samples:
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                family.samples += [sample._replace(labels=sample.labels | more) for sample in found.samples]
    registry = CollectorRegistry()
    registry.register(_Found(families))
    return generate_latest(registry)


class _Found(Collector):
    def __init__(self, families: Mapping[str, Metric]):
        self.families = families

    def collect(self) -> Iterator[Metric]:
        yield from self.families.values()
