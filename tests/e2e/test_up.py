"""`pixeltoll up` as an operator runs it: a real process, its children, its files, its end."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from PIL import Image
from psycopg.errors import InsufficientPrivilege

from pixeltoll.settings import child_environment
from tests import shell
from tests.e2e import clients
from tests.web import Web, serving
from tools import checker

START_S = 180.0
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
# What a client may keep, whatever happens to the stack.
KEPT = ("api_key", "admin_key", "metrics_key", "catalog", "s3_access_key_id")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Up:
    """A running `pixeltoll up`."""

    process: subprocess.Popen[str]
    data_dir: Path
    output: Path

    @property
    def connection(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.data_dir / "connection.json").read_text())
        return facts

    def said(self) -> str:
        return self.output.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def pixeltoll(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pixeltoll", *arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        pixeltoll(*arguments), capture_output=True, text=True, check=False, timeout=60
    )


def start(data_dir: Path, *flags: str, **environment: str) -> Up:
    output = data_dir.with_suffix(".out")
    with output.open("w") as file:
        process = subprocess.Popen(
            pixeltoll("up", "--data-dir", str(data_dir), "--port", "0", *flags),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=child_environment(**environment),
        )
    up = Up(process, data_dir, output)
    wait_until(lambda: process.poll() is not None or "Pixeltoll is up." in up.said(), START_S)
    assert process.poll() is None, up.said()
    return up


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def processes_of(data_dir: Path) -> dict[int, str]:
    """Every process that works in a data folder or was told about it."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            folder = str((entry / "cwd").readlink())
            command = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if command and (folder.startswith(str(data_dir)) or str(data_dir) in command):
            found[int(entry.name)] = command
    return found


def is_ready(up: Up) -> bool:
    try:
        return httpx.get(f"{up.connection['url']}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def available(up: Up) -> Decimal:
    """What the demo's gateway can spend."""
    key = {"Authorization": f"Bearer {up.connection['api_key']}"}
    balance = httpx.get(f"{up.connection['url']}/v1/balance", headers=key).json()
    return Decimal(balance["available"])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pixeltoll-up-")).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """Where links and webhooks lead to."""
    with serving(clients.receiver) as web:
        yield web


@pytest.fixture(scope="module")
def up(folder: Path, web: Web) -> Iterator[Up]:
    """One stack for all tests; the last one ends it."""
    up = start(
        folder / "shared",
        "--flower",
        PIXELTOLL_LINK_HOSTS=f"127.0.0.1:{web.port}",
        # One for all processes, as a machine's profile may have it: it is not one of a stack's.
        PIXELTOLL_METRICS_PORT="9464",
    )
    yield up
    up.end(signal.SIGTERM)


def test_connection_file_says_how_to_use_the_stack(up: Up) -> None:
    connection = up.connection

    assert is_ready(up)
    assert (up.data_dir / "connection.json").stat().st_mode & 0o777 == 0o600
    assert available(up) == 10
    for pid in connection["pids"].values():
        assert Path(f"/proc/{pid}/cwd").readlink() == up.data_dir
    assert connection["url"] in up.said()


def test_every_process_says_how_it_is_where_the_connection_file_says(up: Up) -> None:
    connection = up.connection
    key = {"Authorization": f"Bearer {connection['metrics_key']}"}

    for name in ("url", "worker_url", "scheduler_url"):
        assert f"{connection[name]}/metrics" in up.said()
        assert httpx.get(f"{connection[name]}/healthz").is_success
        measured = httpx.get(f"{connection[name]}/metrics", headers=key)
        assert re.search(r"^process_resident_memory_bytes \d", measured.text, re.MULTILINE)
    assert connection["metrics_key"] not in up.said()


def test_flower_shows_the_queues_to_who_has_its_password(up: Up) -> None:
    url = httpx.URL(up.connection["flower_url"])

    assert httpx.get(url.join("/workers")).is_success
    stranger = url.copy_with(username=None, password=None)
    assert httpx.get(stranger.join("/workers")).status_code == httpx.codes.UNAUTHORIZED
    assert url.host == "127.0.0.1"


def test_the_tutorial_word_by_word(up: Up, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = folder / "clone"
    clone.mkdir()
    (clone / ".pixeltoll").symlink_to(up.data_dir)
    monkeypatch.chdir(clone)
    page = TUTORIAL.read_text("utf-8").replace("http://127.0.0.1:8080", up.connection["url"])
    # `make demo` is typed by its own test; the stack is what `make up` starts, on a free port.
    _demo, up_here, activate, *typed = shell.commands(page)
    assert shell.recipe(up_here) == list(pixeltoll("up"))
    assert activate == f"source {shell.VENV}/bin/activate"
    assert not [line for line in typed if line.startswith("make ")]

    said = dict(enumerate(shell.run(typed, clone)))

    def answers(command: str) -> list[str]:
        return [said[number] for number, line in enumerate(typed) if line.startswith(command)]

    refused = answers("ask $url/v1/jobs -d")
    assert [json.loads(answer)["code"] for answer in refused] == [
        "no_price_limit",
        "over_price_limit",
    ]
    [quote] = map(json.loads, answers("ask $url/v1/quotes"))
    assert f"**{quote['amount']} {quote['currency']}**" in page
    [job] = map(json.loads, answers('ask "$url/v1/jobs/$job?wait=60"'))
    assert (job["state"], job["charged"]) == ("succeeded", quote["amount"])
    with Image.open(clone / "first.png") as picture:
        assert picture.width * picture.height == quote["units"]
    [balance] = answers("pixeltoll balance")
    [left] = re.findall(r"Of the 5 USD, ([\d.]+) are left", page)
    assert left in balance
    assert "The books are sound" in answers("pixeltoll ledger check")[0]


def test_the_webuis_own_client_draws(up: Up) -> None:
    clients.draw_by_the_webui(up.connection)


def test_the_webuis_own_client_sees_progress_and_stops(up: Up) -> None:
    clients.stop_by_the_webui(up.connection)


def test_the_aws_samples_become_objects_and_signed_messages(up: Up, web: Web) -> None:
    clients.run_the_aws_samples(up.connection, web)


def test_jobs_of_two_models_in_turn_get_the_right_one_each(up: Up) -> None:
    clients.switch_between_models(up.connection)


def test_our_own_processes_cannot_change_the_books(up: Up) -> None:
    with psycopg.connect(up.connection["database_url"], autocommit=True) as database:
        assert database.execute("SELECT count(*) > 0 FROM postings").fetchone() == (True,)
        for change in ("UPDATE postings SET amount = 1", "DELETE FROM postings", "DROP TABLE jobs"):
            with pytest.raises(InsufficientPrivilege):
                database.execute(change.encode())

    upgraded = run("db", "upgrade", "--data-dir", str(up.data_dir))

    assert upgraded.returncode == 0, upgraded.stderr


def test_another_process_joins_by_the_data_folder(up: Up) -> None:
    second = subprocess.Popen(
        pixeltoll("scheduler", "--data-dir", str(up.data_dir)),
        stderr=subprocess.PIPE,
        text=True,
    )
    with second:
        assert second.stderr is not None
        assert "scheduler_starts" in second.stderr.readline()
        second.send_signal(signal.SIGTERM)
        second.stderr.read()
    assert second.returncode == 0


def test_a_second_up_says_who_holds_the_folder(up: Up) -> None:
    second = run("up", "--data-dir", str(up.data_dir), "--port", "0")

    assert second.returncode == 1
    assert str(up.process.pid) in second.stderr
    assert is_ready(up)


def test_a_taken_port_is_named_before_anything_starts(up: Up, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        refused = run("up", "--data-dir", str(folder / "other"), "--port", str(port))

    assert refused.returncode == 1
    assert f"Port {port} is in use" in refused.stderr
    assert processes_of(folder / "other") == {}


def test_the_shipped_adapter_has_a_name_in_the_webui(up: Up) -> None:
    answer = httpx.post(
        f"{up.connection['url']}/sdapi/v1/txt2img",
        headers={"Authorization": f"Bearer {up.connection['api_key']}"},
        json={
            "prompt": "a blue circle on a white background <lora:shapes-outline-lora:1>",
            "override_settings": {"sd_model_checkpoint": "pixeltoll/shapes"},
            "width": 64,
            "height": 64,
            "seed": 1,
            "steps": 20,
            "cfg_scale": 2,
        },
        timeout=100,
    ).raise_for_status()

    with Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))) as picture:
        shown = checker.read(picture)
    assert (shown.colour, shown.shape, shown.background) == ("blue", "circle", "white")
    assert shown.outlined


@pytest.mark.parametrize("name", ["api", "worker", "scheduler"])
def test_a_crashed_process_is_restarted(up: Up, name: str) -> None:
    before = up.connection["pids"]

    os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: up.connection["pids"][name] != before[name])

    assert f"{name} (process {before[name]}) ended unexpectedly: killed by SIGKILL" in up.said()
    others = {other: pid for other, pid in before.items() if other != name}
    assert others.items() <= up.connection["pids"].items()
    wait_until(lambda: is_ready(up))


@pytest.mark.parametrize("name", ["postgres", "redis", "s3"])
def test_a_crashed_server_is_restarted_with_its_data(up: Up, name: str) -> None:
    before = available(up)
    programs = {"postgres": "postgres -D", "redis": "-server", "s3": "serve s3"}
    pid = next(
        pid for pid, command in processes_of(up.data_dir).items() if programs[name] in command
    )

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: f"{name} (process {pid}) ended unexpectedly" in up.said())
    wait_until(lambda: is_ready(up))

    answer = run("balance", "demo", "--json", "--data-dir", str(up.data_dir))
    assert Decimal(json.loads(answer.stdout)["available"]) == before


def test_nothing_is_left_behind_and_the_data_stays(up: Up) -> None:
    first, before = up.connection, available(up)
    data_dir = str(up.data_dir)
    assert run("top-up", "demo", "2.5", "--data-dir", data_dir).returncode == 0

    assert up.end(signal.SIGTERM) == 0

    assert processes_of(up.data_dir) == {}
    assert not (up.data_dir / "connection.json").exists()
    idle = run("balance", "demo", "--data-dir", data_dir)
    assert idle.returncode == 1
    assert "No stack runs" in idle.stderr

    up = start(up.data_dir, PIXELTOLL_CATALOG=first["catalog"])
    second = up.connection
    assert {name: second[name] for name in KEPT} == {name: first[name] for name in KEPT}

    # Nobody is left to stop the children: the kernel tells them.
    up.end(signal.SIGKILL)

    wait_until(lambda: processes_of(up.data_dir) == {})
    assert "No stack runs" in run("balance", "demo", "--data-dir", data_dir).stderr

    up = start(up.data_dir)
    assert is_ready(up)
    answer = run("balance", "demo", "--json", "--data-dir", data_dir)
    assert Decimal(json.loads(answer.stdout)["available"]) == before + Decimal("2.5")
    assert up.end(signal.SIGINT) == 0
    assert processes_of(up.data_dir) == {}
