"""/metrics of the API: for who has its key, with what was refused and held, and nobody's words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api import hooks, settings
from api.metrics import MemoryCollector
from api.openapi import described
from ledger.errors import InsufficientFunds
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import GOOD, MODEL, World

KEY = "for-prometheus"
WORDS = "a prompt that nobody may read"


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(metrics_key=SecretStr(KEY))


def read(world: World) -> dict[tuple[str, ...], float]:
    answer = world.client(KEY).get("/metrics")
    assert answer.status_code == 200
    assert WORDS not in answer.text
    return {
        (sample.name.removeprefix("pixeltoll_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_holds_refusals_and_requests_are_counted(world: World) -> None:
    before = read(world)
    submitted, refused = ("POST", "/v1/jobs", "202"), ("POST", "/v1/jobs", "402")

    world.submit(prompt=WORDS)
    world.set_limit("0.000000000000000001")
    assert world.client().post("/v1/jobs", json=GOOD).status_code == 402
    assert world.client().post("/v1/quotes", json=GOOD).status_code == 402
    assert world.client().post("/text-to-image", json={"prompt": 7}).status_code == 422
    assert world.client("").post("/sdapi/v1/txt2img", json={}).status_code == 401
    assert world.client("").get(f"/v1/jobs/{WORDS}").status_code == 401
    after = read(world)

    grown = {
        key: value - before.get(key, 0)
        for key, value in after.items()
        if not key[0].endswith(("_created", "_bucket", "_sum")) and value != before.get(key, 0)
    }
    assert grown.pop(("holds_total", MODEL)) == 1
    refused_for = {key[1]: grown[key] for key in grown if key[0] == "refusals_total"}
    assert refused_for == {"over_price_limit": 1, "invalid_params": 1, "not_authenticated": 1}
    assert grown.pop(("http_requests_total", *submitted)) == 1
    assert grown.pop(("http_requests_total", *refused)) == 1
    assert grown.pop(("http_requests_total", "GET", "/v1/jobs/<job_id>", "401")) == 1


def test_what_may_take_funds_is_a_submission(world: World) -> None:
    operations = [described(view) for view in world.app.view_functions.values()]
    submitting = [one for one in operations if one.submits]

    assert submitting == [one for one in operations if InsufficientFunds in one.errors]
    assert {one.tag for one in submitting} == {"jobs", "livepeer", "aws", "sdwebui"}


def test_a_repeated_request_holds_nothing_more(world: World) -> None:
    headers = {"Idempotency-Key": "once"}
    before = read(world)

    for _ in range(2):
        assert world.client().post("/v1/jobs", json=GOOD, headers=headers).status_code == 202

    key = ("holds_total", MODEL)
    assert read(world)[key] == before.get(key, 0) + 1


def test_metrics_ask_for_their_own_key(world: World) -> None:
    assert world.client().get("/metrics").status_code == 401
    assert world.client("").get("/metrics").status_code == 401


def test_without_a_key_there_is_no_such_page(make_world: MakeWorld) -> None:
    world = make_world()

    assert world.client("").get("/metrics").status_code == 404


def test_the_memory_of_processes_is_that_of_all_that_live() -> None:
    def told(parent: int) -> list[float]:
        families = MemoryCollector(parent).collect()
        return [sample.value for family in families for sample in family.samples]

    argv, pipe = ("sh", "-c", "cat; true"), subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"read\n")
        shell.stdin.flush()
        shell.stdout.readline()
        [resident] = told(shell.pid)
        assert 100_000 < resident < 100_000_000
    assert told(shell.pid) == []


def test_the_processes_of_one_api_count_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    hooks.on_starting(None)
    folder = Path(settings.metrics_folder())
    count = "from tasks import metrics; metrics.HOLDS.labels('m').inc({}); "
    # With all that a process of the API imports: no series may be one process's own.
    tell = "import api.app; from api import metrics as m; print(m.written().decode())"

    for each in (2, 3):
        subprocess.run((sys.executable, "-c", count.format(each)), check=True, env=dict(os.environ))
    done = subprocess.run(
        (sys.executable, "-c", count.format(1) + tell),
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )

    assert 'pixeltoll_holds_total{model_id="m"} 6.0' in done.stdout
    assert list(folder.iterdir())
    assert "pid=" not in done.stdout
    hooks.on_exit(None)
    assert not folder.exists()
