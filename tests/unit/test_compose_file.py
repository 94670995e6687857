"""docker-compose.yml and the Dockerfile as they are written: what every service promises."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from tasks.settings import TaskSettings
from tests import compose

ENV = compose.filled_in()
FILE = compose.load(ENV)
OURS = sorted(name for name, one in FILE["services"].items() if "build" in one)
ONCE = sorted(compose.once(FILE))
ALWAYS = [name for name in FILE["services"] if name not in ONCE]


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
            assert name in compose.required() or name.startswith("SNS_"), name
            assert not re.search(rf"\$\{{{name}:-[^}}]", compose.text()), name


def test_what_may_be_left_empty_reaches_who_reads_it() -> None:
    sns = {"SNS_TOPIC": "arn:aws:sns:eu-central-1:123456789012:ends", "SNS_ACCESS_KEY_ID": "id"}
    given = {"LINK_HOSTS": "intranet:8080", "TRACES": "http://collector:4318/v1/traces", **sns}
    services = compose.load(ENV | given)["services"]

    for name in ("api", "scheduler", "worker", "worker-gpu-0"):
        told = services[name]["environment"]
        assert told["PIXELTOLL_LINK_HOSTS"] == given["LINK_HOSTS"]
        assert told["PIXELTOLL_TRACES"] == given["TRACES"]
        assert (sns["SNS_TOPIC"] in told.values()) is (name == "scheduler")
        assert ("AWS_ACCESS_KEY_ID" in told) is (name == "scheduler")
    told = services["scheduler"]["environment"]
    assert TaskSettings.model_validate(told).sns_topic == sns["SNS_TOPIC"]
    nothing = FILE["services"]["scheduler"]["environment"]
    assert TaskSettings.model_validate(nothing).sns_topic == ""


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


@pytest.mark.parametrize("name", sorted(set(OURS) - {*ONCE, "flower"}))
def test_our_processes_have_the_time_that_they_take_to_leave(name: str) -> None:
    grace = FILE["services"][name]["stop_grace_period"]

    assert int(grace.removesuffix("s")) > TaskSettings().drain_s


@pytest.mark.parametrize("name", FILE["services"])
def test_no_process_has_rights_to_spare(name: str) -> None:
    service = FILE["services"][name]
    users = dict.fromkeys(OURS, "10001:10001") | {"postgres": "postgres", "redis": "redis"}

    assert service["read_only"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Its own start script makes the data its user's, and goes on as that user.
    may_change_users = name == "s3"
    assert service.get("user") == (None if may_change_users else users[name])
    assert service.get("cap_drop") == (None if may_change_users else ["ALL"])


@pytest.mark.parametrize("name", ["postgres", "redis", "s3"])
def test_every_server_keeps_its_data_in_a_volume_and_writes_nowhere_else(name: str) -> None:
    service = FILE["services"][name]
    [mount] = service["volumes"]

    assert mount.partition(":")[0] == name
    assert name in FILE["volumes"]
    assert all(re.fullmatch(r"/[\w/]+:size=\d+m", one) for one in service.get("tmpfs", []))


@pytest.mark.parametrize("dead", ["", "9333", "8080", "8888", "8333"])
def test_the_object_store_is_well_only_with_all_of_its_parts(dead: str, tmp_path: Path) -> None:
    [kind, script] = FILE["services"]["s3"]["healthcheck"]["test"]
    wget = tmp_path / "wget"
    wget.write_text(f'#!/bin/sh\ncase "$3" in *:{dead or "none"}/*) exit 1;; esac\necho "$3"\n')
    wget.chmod(0o755)

    asked = subprocess.run(
        ("/bin/sh", "-c", script),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert kind == "CMD-SHELL"
    assert asked.returncode == (1 if dead else 0)
    if not dead:
        assert asked.stdout.split() == [
            "http://127.0.0.1:9333/cluster/healthz",
            *(f"http://127.0.0.1:{port}/healthz" for port in (8080, 8888, 8333)),
        ]


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
