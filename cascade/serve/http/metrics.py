"""Prometheus metrics of one server, in a registry of its own. Labels never contain prompts, keys or addresses."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cascade.engine.engine import Engine

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class HttpMetrics:
    """Metrics of the process with the socket. requests: by path template, method and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("route", "method", "status")
        self.requests = Counter(
            "cascade_http_requests", "HTTP requests by route, method and status", names, registry=self.registry
        )
        self.request_s = Histogram(
            "cascade_http_seconds",
            "Seconds from a request to the end of its response",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("cascade_refused", "Refused requests by error code", ("code",), registry=self.registry)

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class Metrics(HttpMetrics):
    """Metrics of a server with an engine. jobs: by final state; first_preview_s, total_s: seconds per job."""

    def __init__(self, engine: Engine):
        super().__init__()
        self.jobs = Counter("cascade_jobs", "Ended jobs by final state", ("state",), registry=self.registry)
        self.first_preview_s = Histogram(
            "cascade_first_preview_seconds",
            "Seconds from a job's creation to its first preview",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.total_s = Histogram(
            "cascade_job_seconds", "Seconds from a job's creation to its end", buckets=SECONDS, registry=self.registry
        )
        self.streams = Gauge("cascade_streams", "Open event streams", registry=self.registry)
        self.open_jobs = Gauge("cascade_open_jobs", "Jobs that are queued or running", registry=self.registry)
        self.store_bytes = Gauge(
            "cascade_store_bytes", "Bytes of stored pictures and their index", registry=self.registry
        )
        self.unsaved = Gauge("cascade_unsaved_images", "Pictures waiting to be stored", registry=self.registry)
        self.registry.register(_EngineStats(engine))


class _EngineStats(Collector):
    """Statistics of the engine, read when metrics are collected."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield GaugeMetricFamily(
            "cascade_engine_alive", "1 while every engine thread runs, else 0", value=self.engine.is_alive
        )
        yield GaugeMetricFamily("cascade_waiting_images", "Images accepted and not finished", value=self.engine.waiting)
        batch = GaugeMetricFamily("cascade_stage_batch", "Most rows of a network call", labels=["stage"])
        counted = {
            key: CounterMetricFamily(f"cascade_stage_{key}", text, labels=["stage"])
            for key, text in (
                ("calls", "Network calls"),
                ("rows", "Rows of network calls"),
                ("images", "Images that the stage finished"),
                ("busy_s", "Seconds spent in network calls"),
            )
        }
        for name, stats in self.engine.stats.items():
            batch.add_metric([name], stats.batch)
            for key, family in counted.items():
                family.add_metric([name], getattr(stats, key))
        yield batch
        yield from counted.values()


def merged(own: str, replicas: Mapping[int, str]) -> bytes:
    """Merge metrics in text form: samples of replica K get the label replica="K". Families without samples are left out,
    for instance request metrics of a process without a socket."""
    families: dict[str, Metric] = {}
    labelled = [({}, own), *(({"replica": str(k)}, text) for k, text in sorted(replicas.items()))]
    for labels, text in labelled:
        for metric in text_string_to_metric_families(text):
            if metric.samples:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [sample._replace(labels=sample.labels | labels) for sample in metric.samples]
    registry = CollectorRegistry()
    registry.register(_Found(families))
    return generate_latest(registry)


class _Found(Collector):
    def __init__(self, families: Mapping[str, Metric]):
        self.families = families

    def collect(self) -> Iterator[Metric]:
        yield from self.families.values()
