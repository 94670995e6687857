"""docker-compose.yml does what it says, without Docker: its services run here as they are written.

Each service's own command, environment and health check run on the test session's servers. What
they let out, in logs, to Flower, as metrics and to the broker, is read for what nobody may see.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from PIL import Image, PngImagePlugin
from psycopg.errors import InsufficientPrivilege
from pydantic import SecretStr

from pixeltoll import embedded
from pixeltoll.health import answer
from pixeltoll.settings import child_environment
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore
from tests import compose
from tests.compose import Machine, Native
from tests.databases import administer
from tests.stage import eventually
from tests.support import Servers

EXAMPLE = compose.filled_in()
ENV = EXAMPLE | {
    # Where nobody listens: what is to be delivered there is tried, and complained of.
    "LINK_HOSTS": "127.0.0.1:9",
    "LORAS": EXAMPLE["LORAS"] + ",/models/missing",
}
FILE = compose.load(ENV)
OURS = compose.ours(FILE, without="gpu")
ONCE = compose.once(FILE)
DATABASE = "composed"
SHAPES = {"model_id": "pixeltoll/shapes", "width": 64, "height": 64, "num_inference_steps": 2}
# What nobody may find anywhere but in the job's own row.
PROMPT, NEGATIVE = "canary-in-a-prompt", "canary-in-a-negative-prompt"
# What nobody may find at all: words that a picture came with.
WORDS = "canary-in-a-picture"
# A picture as it is, as Python and JSON write its bytes, and in base64.
PICTURES = ["\x89PNG", r"\x89PNG", r"\u0089PNG", "iVBORw0KGgo"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-compose-")).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def machine(servers: Servers, folder: Path) -> Iterator[Machine]:
    administer(servers, f"CREATE DATABASE {DATABASE}")
    where = servers.database_url.partition("?")[2]
    broker = servers.redis(15)
    yield Machine(
        folder,
        names={
            "@postgres:5432/pixeltoll": f"@/{DATABASE}?{where}",
            f"redis://:{ENV['REDIS_PASSWORD']}@redis:6379/0": broker,
            "http://s3:8333": servers.s3_endpoint,
        },
        environment={
            "S3_BUCKET": "composed",
            "S3_ACCESS_KEY_ID": servers.s3_access_key_id,
            "S3_SECRET_ACCESS_KEY": servers.s3_secret_access_key,
        },
    )
    administer(servers, f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(scope="module")
def running(machine: Machine) -> Iterator[dict[str, Native]]:
    """All of it, started in the order of `depends_on`; those that stay."""
    services = {name: machine.service(FILE, name) for name in OURS}
    for name, service in services.items():
        if name in ONCE:
            service.run()
        else:
            service.start()
    yield {name: service for name, service in services.items() if name not in ONCE}
    for service in services.values():
        if service.process is not None and service.process.poll() is None:
            service.process.kill()


def order(**asked: object) -> dict[str, Any]:
    # Longer than the model reads: its library would quote what it cut off.
    prompts = {"prompt": "a lighthouse " * 60 + PROMPT, "negative_prompt": NEGATIVE}
    return {"pipeline": "text-to-image", **SHAPES, **prompts, **asked}


def submitted(client: httpx.Client, **asked: object) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=order(**asked))
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    job: dict[str, Any] = answer.json()
    return job


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] not in ("queued", "running") else None

    return eventually(ended, within_s=60) or {}


@pytest.fixture
def client(running: dict[str, Native], machine: Machine) -> Iterator[httpx.Client]:
    """A client of the API with the key that `bootstrap` wrote."""
    url = f"http://127.0.0.1:{running['api'].ports['8080']}"
    with httpx.Client(base_url=url, headers=login(machine), timeout=30) as client:
        yield client


@pytest.fixture
def flower(running: dict[str, Native]) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{running['flower'].ports['5555']}"
    with httpx.Client(base_url=url, auth=("pixeltoll", ENV["FLOWER_PASSWORD"])) as client:
        yield client


def login(machine: Machine) -> dict[str, str]:
    key = (machine.folder / "keys" / "api-key").read_text("utf-8").strip()
    return {"Authorization": f"Bearer {key}"}


def lengths(flower: httpx.Client) -> dict[str, int]:
    answer = flower.get("/api/queues/length").raise_for_status().json()
    return {queue["name"]: queue["messages"] for queue in answer["active_queues"]}


@pytest.mark.timeout(240)
def test_what_compose_starts_takes_a_job_and_charges_it(
    running: dict[str, Native], client: httpx.Client, servers: Servers
) -> None:
    for service in running.values():
        # Asked here until it answers, as a process for each question would slow down what starts.
        eventually(lambda url=service.check[-1]: answer(url)[0], within_s=60)  # type: ignore[misc]
        assert service.is_well()

    job = finished(client, submitted(client)["id"])

    assert set(running) == set(OURS) - {"migrate", "models", "bootstrap"}
    assert job["state"] == "succeeded", (job, running["worker"].said())
    assert client.get(job["outputs"][0]["url"]).content.startswith(b"\x89PNG")
    assert client.get("/v1/balance").json()["held"] == "0"
    with psycopg.connect(servers.database(DATABASE)) as database:
        assert database.execute("SELECT count(*), sum(units) FROM charges").fetchone() == (1, 4096)


def test_flower_shows_a_job_by_its_id_and_model(client: httpx.Client, flower: httpx.Client) -> None:
    [job] = client.get("/v1/jobs").json()["data"]

    def seen() -> list[dict[str, Any]]:
        tasks = flower.get("/api/tasks").raise_for_status().json().values()
        return [one for one in tasks if one["state"] == "SUCCESS"]

    [task] = eventually(seen)
    assert task["name"] == "pixeltoll.generate"
    assert (task["args"], task["kwargs"]) == (f"({job['id']})", "(pixeltoll/shapes)")
    assert job["id"] in flower.get(f"/task/{task['uuid']}").text


def test_flower_shows_the_length_of_every_queue(
    running: dict[str, Native], client: httpx.Client, flower: httpx.Client, servers: Servers
) -> None:
    queue = "text-to-image.pixeltoll-shapes.demo"
    assert lengths(flower)[queue] == 0
    assert len(lengths(flower)) == len(client.get("/v1/models").json()["data"])
    worker = running["worker"].process
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    jobs = [submitted(client)["id"] for _ in range(3)]

    # One bell is on its way to the worker, which cannot answer for its queues now.
    eventually(lambda: lengths(flower)[queue] >= 1)
    eventually(lambda: f'[["{jobs[-1]}"]' in kept(servers))
    messages = kept(servers)
    worker.send_signal(signal.SIGCONT)
    assert not [one for one in (PROMPT, NEGATIVE) if one in messages]
    assert {finished(client, job_id)["state"] for job_id in jobs} == {"succeeded"}
    eventually(lambda: lengths(flower)[queue] == 0)


def kept(servers: Servers) -> str:
    """All that the broker holds, with what is inside its messages."""
    with redis.Redis.from_url(servers.redis(15)) as broker:
        broker.config_set("rdbcompression", "no")  # what is packed could not be searched
        dumps = [broker.dump(key) or b"" for key in broker.scan_iter()]
    bodies = re.findall(rb'"body": "([^"]+)"', b" ".join(dumps))
    return b" ".join([*dumps, *map(base64.b64decode, bodies)]).decode("latin-1")


@pytest.fixture(scope="module")
def webhook(running: dict[str, Native], machine: Machine) -> str:
    """The secret of a webhook that cannot be reached, and is told of all that comes after it."""
    url = f"http://127.0.0.1:{running['api'].ports['8080']}/v1/webhooks"
    asked = {"url": f"http://{ENV['LINK_HOSTS']}/"}
    answer = httpx.post(url, json=asked, headers=login(machine), timeout=30)
    secret: str = answer.raise_for_status().json()["secret"]
    return secret


@pytest.mark.usefixtures("webhook")
def test_jobs_of_every_kind_end_as_they_should(
    client: httpx.Client, machine: Machine, servers: Servers
) -> None:
    style = json.dumps({str(machine.folder / "models" / "shapes-outline-lora"): 1})
    missing = json.dumps({str(machine.folder / "models" / "missing"): 1})
    image = base64.b64encode(photograph()).decode()

    edited = submitted(client, pipeline="image-to-image", image=image, width=None, height=None)
    styled = [finished(client, submitted(client, loras=style)["id"]) for _ in range(2)]
    failed = finished(client, submitted(client, loras=missing)["id"])
    refused = client.post("/v1/jobs", json=order(max_price="0.000000000000000001"))

    assert [job["state"] for job in styled] == ["succeeded"] * 2
    edited = finished(client, edited["id"])
    assert edited["state"] == "succeeded", edited
    assert (failed["state"], failed["error"]["code"]) == ("failed", "lora_not_found")
    assert refused.json()["code"] == "over_price_limit"
    kept = objects(servers)
    assert sum(one.startswith(b"\x89PNG") for one in kept) > 7  # outputs, and one input
    assert not [one for one in kept if WORDS.encode() in one]


def photograph() -> bytes:
    """A picture with words beside it."""
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", WORDS)
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(data, "PNG", pnginfo=words)
    assert WORDS.encode() in data.getvalue()
    return data.getvalue()


def objects(servers: Servers) -> list[bytes]:
    """All that the object store holds."""
    settings = TaskSettings(
        s3_endpoint=servers.s3_endpoint,
        s3_bucket="composed",
        s3_access_key_id=servers.s3_access_key_id,
        s3_secret_access_key=SecretStr(servers.s3_secret_access_key),
    )
    store = ObjectStore.from_settings(settings)
    return [store.get(one.key) for one in store.list("")]


def test_flower_answers_nobody_without_its_password_and_changes_nothing(
    flower: httpx.Client,
) -> None:
    for path in ("/", "/tasks", "/broker", "/api/tasks", "/api/queues/length", "/api/workers"):
        assert httpx.get(flower.base_url.join(path)).status_code == httpx.codes.UNAUTHORIZED
    # Of the two pages for machines, which the documentation names.
    assert httpx.get(flower.base_url.join("/healthcheck")).text == "OK"
    assert httpx.get(flower.base_url.join("/metrics")).is_success
    refused = flower.post("/api/task/revoke/any", params={"terminate": "true"})
    assert refused.status_code in (httpx.codes.FORBIDDEN, httpx.codes.METHOD_NOT_ALLOWED)
    for worker in flower.get("/api/workers").json():
        assert flower.post(f"/api/worker/shutdown/{worker}").is_error


def test_flower_remembers_what_it_saw(running: dict[str, Native], flower: httpx.Client) -> None:
    before = set(flower.get("/api/tasks").json())
    assert before

    assert running["flower"].stop() == 0
    running["flower"].start()

    eventually(lambda: answer(running["flower"].check[-1])[0])
    assert before <= set(flower.get("/api/tasks").json())


def test_every_process_tells_what_it_measures(running: dict[str, Native]) -> None:
    said = {name: metrics(running, name) for name in ("api", "worker", "scheduler")}

    shapes = 'model_id="pixeltoll/shapes"'
    # One job of eight failed: its adapter was missed, and is not there at all.
    assert f"pixeltoll_holds_total{{{shapes}}} 8.0" in said["api"]
    assert 'pixeltoll_refusals_total{reason="over_price_limit"} 1.0' in said["api"]
    assert f"pixeltoll_captures_total{{{shapes}}} 7.0" in said["worker"]
    assert f"pixeltoll_model_loaded{{{shapes}}} 1.0" in said["worker"]
    for phase in ("queue", "load", "denoise", "encode", "upload", "settle"):
        assert f'_count{{{shapes},phase="{phase}"}}' in said["worker"]
    assert value(said["worker"], f"pixeltoll_batch_fill_ratio_count{{{shapes}}}") >= 4
    assert 'pixeltoll_lora_lookups_total{outcome="miss"} 2.0' in said["worker"]
    assert 'pixeltoll_lora_lookups_total{outcome="hit"} 1.0' in said["worker"]
    for place in ("device", "device_budget"):
        assert value(said["worker"], f'pixeltoll_model_memory_bytes{{place="{place}"}}') > 1e6
    for name in ("worker", "scheduler"):
        assert value(said[name], "process_resident_memory_bytes") > 1e7
    assert 'pixeltoll_recent_jobs{state="succeeded"} 7.0' in said["scheduler"]
    assert 'pixeltoll_recent_jobs{state="failed"} 1.0' in said["scheduler"]
    assert 'pixeltoll_live_workers{orchestrator="demo"} 1.0' in said["scheduler"]
    assert value(said["scheduler"], 'pixeltoll_webhook_deliveries_total{outcome="failed"}') >= 4


def value(said: str, name: str) -> float:
    """The value of one metric."""
    [line] = [one for one in said.splitlines() if one.startswith(f"{name} ")]
    return float(line.removeprefix(f"{name} "))


def metrics(running: dict[str, Native], name: str) -> str:
    """What Prometheus would read, of all processes of a service together."""
    url = httpx.URL(running[name].check[-1]).copy_with(path="/metrics")
    key = {"Authorization": f"Bearer {ENV['METRICS_KEY']}"}
    return httpx.get(url, headers=key).raise_for_status().text


def test_nobody_reads_prompts_keys_or_pictures_but_their_owner(
    running: dict[str, Native],
    machine: Machine,
    flower: httpx.Client,
    servers: Servers,
    webhook: str,
) -> None:
    let_out = {log.name: log.read_bytes().decode("latin-1") for log in machine.folder.glob("*.log")}
    tasks = flower.get("/api/tasks").raise_for_status()
    pages = [f"/task/{name}" for name in tasks.json()] + ["/", "/broker", "/metrics"]
    let_out["flower's API"] = tasks.text
    let_out |= {page: flower.get(page).raise_for_status().text for page in pages}
    for name in ("api", "worker", "scheduler"):
        let_out[f"{name}'s metrics"] = metrics(running, name)
    let_out["broker"] = kept(servers)
    for file in (machine.folder / "flower").iterdir():
        let_out[file.name] = file.read_bytes().decode("latin-1")
    assert {f"{name}.log" for name in OURS} <= set(let_out)
    assert "pixeltoll/shapes" in let_out["flower's API"]
    assert {"job_submitted"} <= events(let_out["api.log"])
    assert {"worker_starts", "job_succeeded", "job_failed"} <= events(let_out["worker.log"])
    assert {"scheduler_starts"} <= events(let_out["scheduler.log"])
    events(let_out["flower.log"])

    # The last part of a key; what is before it is its public id.
    keys = (machine.folder / "keys").iterdir()
    secrets = [path.read_text("utf-8").strip().rpartition("_")[2] for path in keys]
    secrets += [ENV[name] for name in compose.required()]
    # Where a server here has another secret than the file's.
    secrets += [servers.s3_secret_access_key, str(httpx.URL(servers.redis_url).password)]
    secrets += [webhook.removeprefix("whsec_"), PROMPT, NEGATIVE, WORDS, *PICTURES]
    assert all(secrets)
    found = {where: [one for one in secrets if one in said] for where, said in let_out.items()}
    assert {where: some for where, some in found.items() if some} == {}


def test_no_process_can_change_the_books(running: dict[str, Native]) -> None:
    for service in running.values():
        with psycopg.connect(service.env["DATABASE_URL"]) as database:
            assert database.info.user == "pixeltoll_service"
            with pytest.raises(InsufficientPrivilege):
                database.execute("UPDATE postings SET amount = 1")


def test_starting_again_changes_nothing(running: dict[str, Native], machine: Machine) -> None:
    keys = [machine.folder / "keys" / name for name in ("api-key", "orchestrator-key")]
    before = [path.read_bytes() for path in keys]

    machine.service(FILE, "bootstrap").run()

    assert [path.read_bytes() for path in keys] == before
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in keys)


def test_a_scheduler_that_cannot_do_its_chores_is_not_well(machine: Machine) -> None:
    scheduler = machine.service(FILE, "scheduler")

    assert subprocess.run(scheduler.check, env=scheduler.env, check=False).returncode == 1


def events(log: str) -> set[str]:
    """The events of a log, whose every line is JSON, a library's too."""
    lines = [json.loads(line) for line in log.splitlines()]
    about = [line for line in lines if line["event"].startswith("job_")]
    assert all({"job_id", "gateway_id", "attempt"} <= set(line) for line in about), about
    return {line["event"] for line in lines}


def test_every_process_ends_when_it_is_told_to(running: dict[str, Native]) -> None:
    for service in running.values():
        service.leave()

    statuses = {name: one.process.wait(30) for name, one in running.items() if one.process}

    assert statuses == dict.fromkeys(running, 0)


@pytest.mark.usefixtures("running")
def test_no_process_writes_but_to_its_volumes(machine: Machine) -> None:
    mounts = [mount for name in OURS for mount in FILE["services"][name].get("volumes", [])]
    logs = {f"{name}.log" for name in OURS}

    there = {path.name for path in machine.folder.iterdir()}
    assert there == {mount.partition(":")[0] for mount in mounts} | logs | {machine.roots.name}
    assert {path.name: list(path.iterdir()) for path in machine.roots.iterdir()} == {
        name: [] for name in OURS
    }


def test_the_broker_keeps_what_it_is_sent(machine: Machine, folder: Path) -> None:
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "redis-server").symlink_to(embedded.redis_binary())
    service = machine.service(FILE, "redis")
    [shell, flag, script] = service.argv
    port = embedded.free_port()
    service.argv = [shell, flag, script.replace("appendonly", f"port {port}\nappendonly")]
    service.env["PATH"] = f"{binaries}:{child_environment()['PATH']}"
    service.start()
    try:
        with redis.Redis(port=port, password=ENV["REDIS_PASSWORD"]) as client:
            eventually(lambda: answers(client))
            said = client.config_get("appendonly", "maxmemory-policy", "appendfsync", "dir")
    finally:
        service.stop()

    assert said == {
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "appendfsync": "everysec",
        "dir": str(folder / "redis"),
    }


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        time.sleep(0.05)
        return False
