"""What a watched process answers: well while it makes progress, and what it measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from pixeltoll.embedded import free_port
from pixeltoll.health import answer, main
from tasks.errors import NotListening
from tasks.probe import Pulse, listen
from tasks.settings import TaskSettings

Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    servers = []

    def listening(**pulses: Pulse) -> str:
        registry = CollectorRegistry()
        Counter("rings", "How often it rang.", registry=registry).inc()
        settings = TaskSettings(PIXELTOLL_METRICS_PORT=free_port())
        server = listen(settings, pulses, registry)
        assert server is not None
        servers.append(server)
        return f"http://127.0.0.1:{settings.metrics_port}"

    yield listening
    for server in servers:
        server.shutdown()
        server.server_close()


def test_progress_is_health(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    url = start(sweep=Pulse(limit_s=60))

    assert main([f"{url}/healthz"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_one_chore_that_stands_still_is_enough_and_is_named(start: Start) -> None:
    tidy = Pulse(limit_s=-1)
    url = start(sweep=Pulse(limit_s=60), tidy=tidy)

    is_well, said = answer(f"{url}/healthz")

    assert not is_well
    assert said.startswith("503: ")
    facts = json.loads(said.removeprefix("503: "))
    assert (facts["status"], facts["late"]) == ("no progress", ["tidy"])
    assert facts["still_s"].keys() == {"sweep", "tidy"}
    tidy.beat()
    assert tidy.still_s >= 0


def test_what_is_measured_is_shown(start: Start) -> None:
    url = start(sweep=Pulse(limit_s=60))

    assert "rings_total 1.0" in answer(f"{url}/metrics")[1]
    assert answer(f"{url}/elsewhere")[1].startswith("404")


def test_without_a_port_nobody_listens() -> None:
    assert listen(TaskSettings(), {}) is None


def test_a_port_that_cannot_be_had_is_named(start: Start) -> None:
    taken = int(start(sweep=Pulse(limit_s=60)).rpartition(":")[2])

    with pytest.raises(NotListening, match=f"Port {taken} .*PIXELTOLL_METRICS_PORT"):
        listen(TaskSettings(PIXELTOLL_METRICS_PORT=taken), {})


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/healthz", "nonsense", ""])
def test_who_does_not_answer_is_not_well(url: str) -> None:
    assert main([url]) == 1


def test_a_check_of_nothing_says_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "URL" in capsys.readouterr().err
