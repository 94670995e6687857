"""docker-compose.yml does what it says, without Docker: its services run here as they are written.

It is checked against the schema of compose files, and for what every service of it promises; then
each service's own command, environment and health check run on the test session's servers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psycopg
import pytest
import redis
from psycopg.errors import InsufficientPrivilege

from pixeltoll import embedded
from pixeltoll.health import answer
from pixeltoll.settings import child_environment
from tests import compose
from tests.compose import Machine, Native
from tests.databases import administer
from tests.stage import eventually
from tests.support import Servers

ENV = {name: value or "secret" for name, value in compose.env_example().items()}
FILE = compose.load(ENV)
OURS = sorted(name for name, one in FILE["services"].items() if "build" in one)
ONCE = ["migrate", "models", "bootstrap"]
ALWAYS = [name for name in FILE["services"] if name not in ONCE]
DATABASE = "composed"


def test_the_file_is_what_compose_files_are() -> None:
    schemas = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text("utf-8"))

    jsonschema.Draft7Validator(schema).validate(FILE)


def test_every_variable_is_explained_in_the_example_of_secrets() -> None:
    used = set(re.findall(r"\$\{(\w+)", compose.text()))

    assert used | {"COMPOSE_PROFILES"} == set(compose.env_example())


def test_no_secret_has_a_default() -> None:
    for name, value in compose.env_example().items():
        if name.endswith(("PASSWORD", "KEY", "KEY_ID")):
            assert value == ""
            assert re.search(rf"\$\{{{name}:\?\}}", compose.text()), name


@pytest.mark.parametrize("name", FILE["services"])
def test_every_image_is_pinned_by_version(name: str) -> None:
    tag = FILE["services"][name]["image"].rpartition(":")[2]

    assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-\w+)?", tag)


@pytest.mark.parametrize("name", FILE["services"])
def test_every_service_has_limits_and_a_restart_policy(name: str) -> None:
    service = FILE["services"][name]

    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["restart"] == ("on-failure:5" if name in ONCE else "unless-stopped")
    assert ("healthcheck" in service) is (name in ALWAYS)
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", OURS)
def test_our_processes_have_no_rights_to_spare(name: str) -> None:
    service = FILE["services"][name]

    assert service["user"] == "10001:10001"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_the_upgrade_has_the_owners_password() -> None:
    env = {**ENV, "POSTGRES_PASSWORD": "owners"}
    services = compose.load(env)["services"]

    assert {name for name in services if "owners" in str(services[name])} == {"postgres", "migrate"}


def test_nothing_is_published_but_the_api_and_flower_on_the_loopback() -> None:
    published = {name: one["ports"] for name, one in FILE["services"].items() if "ports" in one}

    assert published == {"api": ["127.0.0.1:8080:8080"], "flower": ["127.0.0.1:5555:5555"]}


def test_a_gpu_is_reserved_for_each_worker_that_has_one() -> None:
    worker = FILE["services"]["worker-gpu-0"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]

    assert worker["profiles"] == ["gpu"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert worker["command"] == FILE["services"]["worker"]["command"]


def test_the_images_hold_what_the_packages_need() -> None:
    dockerfile = (compose.ROOT / "Dockerfile").read_text("utf-8")
    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    ignored = (compose.ROOT / ".dockerignore").read_text("utf-8")

    assert copied == {"ledger", "tasks", "api", "pixeltoll", "migrations"}
    assert copied <= set(re.findall(r"^!(\w+)$", ignored, re.MULTILINE))
    targets = set(re.findall(r"^FROM \S+ AS ([\w-]+)$", dockerfile, re.MULTILINE))
    assert {FILE["services"][name]["build"]["target"] for name in OURS} <= targets
    api = dockerfile.split("AS api\n")[1].split("FROM")[0]
    assert "build-worker" not in api
    assert dockerfile.count("USER 10001:10001") == 2


# --- started natively -----------------------------------------------------------------------------


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
            "redis://:secret@redis:6379/0": broker,
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
    """All of it, started in the order of `depends_on`."""
    once = {name: machine.service(FILE, name) for name in ONCE}
    # As they do under Compose, these two run side by side.
    once["models"].start()
    once["migrate"].run()
    assert once["models"].process is not None
    assert once["models"].process.wait(100) == 0, once["models"].said()
    once["bootstrap"].run()
    services = {
        name: machine.service(FILE, name) for name in ("api", "scheduler", "worker", "flower")
    }
    for service in services.values():
        service.start()
    yield services
    for service in services.values():
        if service.process is not None and service.process.poll() is None:
            service.process.kill()


def submitted(client: httpx.Client) -> dict[str, Any]:
    order = {
        "pipeline": "text-to-image",
        "model_id": "pixeltoll/demo-sd",
        "prompt": "a lighthouse",
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
    }
    answer = client.post("/v1/jobs", json=order)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    job: dict[str, Any] = answer.json()
    return job


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] not in ("queued", "running") else None

    return eventually(ended, within_s=60) or {}


@pytest.mark.timeout(240)
def test_what_compose_starts_takes_a_job_and_charges_it(
    running: dict[str, Native], machine: Machine, servers: Servers
) -> None:
    for service in running.values():
        # Asked here until it answers, as a process for each question would slow down what starts.
        eventually(lambda url=service.check[-1]: answer(url)[0], within_s=60)  # type: ignore[misc]
        assert service.is_well()
    port = running["api"].ports["8080"]
    key = (machine.folder / "keys" / "api-key").read_text("utf-8").strip()
    url, login = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=login, timeout=30) as client:
        job = finished(client, submitted(client)["id"])

        assert job["state"] == "succeeded", (job, running["worker"].said())
        picture = client.get(job["outputs"][0]["url"])
        assert picture.content.startswith(b"\x89PNG")
        balance = client.get("/v1/balance").json()
    assert balance["held"] == "0"
    with psycopg.connect(servers.database(DATABASE)) as database:
        assert database.execute("SELECT count(*), sum(units) FROM charges").fetchone() == (1, 4096)


def test_no_process_can_change_the_books(running: dict[str, Native]) -> None:
    for service in running.values():
        with psycopg.connect(service.env["DATABASE_URL"]) as database:
            assert database.info.user == "pixeltoll_service"
            with pytest.raises(InsufficientPrivilege):
                database.execute("UPDATE postings SET amount = 1")


def test_starting_again_changes_nothing(running: dict[str, Native], machine: Machine) -> None:
    keys = [machine.folder / "keys" / name for name in ("api-key", "orchestrator-key")]
    before = [path.read_bytes() for path in keys]

    for name in ("migrate", "bootstrap"):
        machine.service(FILE, name).run()

    assert [path.read_bytes() for path in keys] == before
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in keys)


def test_a_scheduler_that_cannot_do_its_chores_is_not_well(machine: Machine) -> None:
    scheduler = machine.service(FILE, "scheduler")

    assert subprocess.run(scheduler.check, env=scheduler.env, check=False).returncode == 1


def test_every_process_ends_when_it_is_told_to(running: dict[str, Native]) -> None:
    assert {name: service.stop() for name, service in running.items()} == dict.fromkeys(running, 0)


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
        with redis.Redis(port=port, password="secret") as client:
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
