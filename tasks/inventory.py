"""What a worker's engine has in memory, for its /metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.engine.protocol import Engine


class EngineCollector(Collector):
    """What an engine has in memory, asked at each scrape."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine; nothing is asked yet."""
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, so that registering them asks nobody."""
        return [_models(), _memory()]

    def collect(self) -> Iterable[Metric]:
        """Return which models are loaded, and how many bytes lie where."""
        models, memory = _models(), _memory()
        for model_id in self._engine.loaded:
            models.add_metric([model_id], 1)
        for place, size_bytes in self._engine.memory_bytes.items():
            memory.add_metric([place], size_bytes)
        return [models, memory]


def _models() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "pixeltoll_model_loaded", "1 for each model in this worker's memory.", labels=["model_id"]
    )


def _memory() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "pixeltoll_model_memory_bytes",
        "Bytes of models: on the device, waiting in the CPU's memory, and what each may take.",
        labels=["place"],
    )
