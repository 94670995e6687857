"""docker-compose.yml and the Dockerfile as they are written: what every service promises."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import jsonschema
import pytest

from tasks.settings import TaskSettings
from tests import compose

ENV = compose.filled_in()
FILE = compose.load(ENV)
OURS = sorted(name for name, one in FILE["services"].items() if "build" in one)
ONCE = ["migrate", "models", "bootstrap"]
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
