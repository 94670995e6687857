"""What the dashboard, the alerts and the documentation name exists: every metric and label."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import get_args

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy.orm import sessionmaker

from api import metrics as http_metrics
from ledger.settings import LedgerSettings
from tasks import bookkeeping, delivery
from tasks import metrics as job_metrics
from tasks.gauges import DatabaseCollector
from tasks.inventory import EngineCollector
from tests.compose import ROOT
from tests.fakes import FakeEngine

OPS = ROOT / "ops"
NAMED = re.compile(r"\b((?:pixeltoll|process)_[a-z_]+)")
LABELS = re.compile(r"\bby \(([a-z_, ]+)\)|\{([^}]*)\}")
SELECTED = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
# What Prometheus adds to everything that it reads, and to histograms.
ADDED = {"job", "instance", "le"}
BOARD = json.loads((OPS / "grafana-dashboard.json").read_text("utf-8"))
ALERTS = yaml.safe_load((OPS / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
EXPRESSIONS = [
    *(target["expr"] for panel in BOARD["panels"] for target in panel["targets"]),
    *(rule["expr"] for rule in ALERTS),
]
MODULES = (job_metrics, bookkeeping, http_metrics)


@dataclass(frozen=True)
class Described:
    """A metric of ours, by the name that it is asked for."""

    name: str
    kind: str
    labels: tuple[str, ...]
    said: str


def described() -> list[Described]:
    own = [
        one
        for module in MODULES
        for one in vars(module).values()
        if isinstance(one, MetricWrapperBase)
    ]
    found = [(family, one._labelnames) for one in own for family in one.describe()]
    for collector in (DatabaseCollector(sessionmaker()), EngineCollector(FakeEngine())):
        found += [(one, one._labelnames) for one in collector.describe()]  # type: ignore[attr-defined]
    return [
        Described(
            one.name + ("_total" if one.type == "counter" else ""),
            one.type,
            tuple(labels),
            one.documentation,
        )
        for one, labels in found
    ]


METRICS = described()


def samples() -> set[str]:
    """Every name that can be asked for."""
    names = {"process_resident_memory_bytes"}
    for one in METRICS:
        endings = ("_bucket", "_sum", "_count") if one.kind == "histogram" else ("",)
        names |= {one.name + ending for ending in endings}
    return names


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_every_metric_that_is_asked_for_exists(expression: str) -> None:
    assert set(NAMED.findall(expression)) <= samples()
    asked = set()
    for grouped, matched in LABELS.findall(expression):
        asked |= {name.strip() for name in grouped.split(",") if name.strip()}
        asked |= set(re.findall(r"([a-z_]+)\s*=", matched))
    assert asked <= ADDED.union(*(one.labels for one in METRICS))


def emitted() -> dict[tuple[str, str], set[str]]:
    """What a label of a metric may be, where an expression asks for one of its values."""
    jobs = yaml.safe_load((OPS / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    names = {one["job_name"] for one in jobs}
    return {
        ("pixeltoll_phase_seconds_bucket", "phase"): set(get_args(job_metrics.Phase)),
        ("pixeltoll_worker_jobs_total", "outcome"): set(get_args(job_metrics.Outcome)),
        ("pixeltoll_webhook_deliveries_total", "outcome"): set(delivery.OUTCOMES.values()),
        ("pixeltoll_http_requests_total", "status"): {str(status.value) for status in HTTPStatus},
        ("up", "job"): names,
        ("process_resident_memory_bytes", "job"): names,
    }


def test_every_value_of_a_label_that_is_asked_for_is_one_that_there_may_be() -> None:
    for name, matchers in SELECTED.findall(" ".join(EXPRESSIONS)):
        asked = MATCHER.findall(matchers)
        assert ",".join(f'{label}{how}"{value}"' for label, how, value in asked) == matchers
        for label, how, value in asked:
            pattern = value if "~" in how else re.escape(value)
            assert any(re.fullmatch(pattern, one) for one in emitted()[name, label]), value


@pytest.mark.parametrize("metric", METRICS, ids=lambda one: one.name)
def test_every_metric_of_ours_is_shown_and_documented(metric: Described) -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    shown = set(NAMED.findall(" ".join(EXPRESSIONS)))

    assert any(one.startswith(metric.name) for one in shown)
    assert row(metric) in page, row(metric)


def row(metric: Described) -> str:
    """The line of docs/reference/metrics.md about a metric."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.said} |"


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    for rule in ALERTS:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "do"}
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_somebody_is_told_when_two_audits_in_a_row_are_missing() -> None:
    [rule] = [rule for rule in ALERTS if rule["alert"] == "PixeltollBooksNotAudited"]

    assert rule["expr"].endswith(f" > {2 * LedgerSettings().audit_interval_s:.0f}")


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    places = [(panel["gridPos"]["x"] // 8, panel["gridPos"]["y"] // 7) for panel in BOARD["panels"]]

    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(places)


def test_what_prometheus_reads_are_services_and_their_ports() -> None:
    asked = yaml.safe_load((OPS / "prometheus.yml").read_text("utf-8"))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]

    for job in asked["scrape_configs"]:
        [[target]] = [one["targets"] for one in job["static_configs"]]
        name, _, port = target.partition(":")
        assert job["job_name"] == f"pixeltoll-{name}"
        words = " ".join(
            map(str, [*services[name]["command"], *services[name]["environment"].values()])
        )
        assert port in words.split()
    assert [(OPS / name).exists() for name in asked["rule_files"]] == [True]


def test_no_metric_is_in_two_registries() -> None:
    ours = [name for name in REGISTRY._names_to_collectors if name.startswith("pixeltoll_")]

    assert not {"pixeltoll_queue_depth", "pixeltoll_model_loaded"} & set(ours)
