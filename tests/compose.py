"""docker-compose.yml, read as Compose reads it, and its services run on this machine instead.

What a container would see is translated: names of servers become the test session's own, ports
become free ones, and volumes become folders.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from pixeltoll.embedded import free_port

ROOT = Path(__file__).parents[1]
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


def text() -> str:
    return (ROOT / "docker-compose.yml").read_text("utf-8")


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value for name, value in pairs}  # noqa: C416  dict() cannot take lists of two


def required() -> set[str]:
    """The variables without which nothing starts: the secrets."""
    return set(re.findall(r"\$\{(\w+):\?", text()))


def filled_in() -> dict[str, str]:
    """The example of secrets as somebody fills it in who leaves empty what may be."""
    return env_example() | {name: f"canary-{name}" for name in required()}


def load(env: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables filled in, as `docker compose config` shows it."""

    def value(found: re.Match[str]) -> str:
        dollar, name, how, default = found.groups()
        if dollar:
            return "$"
        given = env.get(name, "")
        assert given or how == "-", f"{name} is required and not set"
        return given or str(default)

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            return _VARIABLE.sub(value, node)
        if isinstance(node, list):
            return [filled(one) for one in node]
        if isinstance(node, dict):
            return {name: filled(one) for name, one in node.items()}
        return node

    found: dict[str, Any] = filled(yaml.safe_load(text()))
    return found


def ours(compose: Mapping[str, Any], without: str) -> list[str]:
    """The services that are built here, less those of a profile, each after what it waits for."""
    services = {
        name: one
        for name, one in compose["services"].items()
        if "build" in one and without not in one.get("profiles", [])
    }
    waits = {name: set(services) & set(one.get("depends_on", {})) for name, one in services.items()}
    return list(TopologicalSorter(waits).static_order())


def once(compose: Mapping[str, Any]) -> set[str]:
    """The services that others wait for until they have ended."""
    waits = (one.get("depends_on", {}).items() for one in compose["services"].values())
    ended = {"condition": "service_completed_successfully"}
    return {name for some in waits for name, until in some if until == ended}


@dataclass
class Native:
    """A service of the file as a process of this machine."""

    name: str
    argv: list[str]
    env: dict[str, str]
    check: list[str]
    log: Path
    root: Path
    """What it is at home and at work in, and is to leave empty: in a container it cannot write."""
    ports: Mapping[str, int]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.argv, env=self.env, cwd=self.root, stdout=out, stderr=out
            )

    def run(self) -> None:
        """Run a service that ends by itself."""
        self.start()
        assert self.process is not None
        assert self.process.wait(100) == 0, self.said()

    def is_well(self) -> bool:
        """What its own health check says."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return subprocess.run(self.check, env=self.env, check=False).returncode == 0

    def leave(self) -> None:
        """Tell it to leave."""
        assert self.process is not None
        self.process.terminate()

    def stop(self) -> int:
        """Tell it to leave, and return its status."""
        self.leave()
        assert self.process is not None
        return self.process.wait(30)

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


@dataclass
class Machine:
    """Where the services run: what stands in for each name, and a folder for the volumes."""

    folder: Path
    names: Mapping[str, str]
    """What is written in the file, and what it is here."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What replaces a variable of a service, whatever the file says."""

    @property
    def roots(self) -> Path:
        return self.folder / "roots"

    def service(self, compose: Mapping[str, Any], name: str) -> Native:
        asked = compose["services"][name]
        words = [*asked["command"], *asked.get("healthcheck", {}).get("test", [])]
        given = asked.get("environment", {})
        inner = set(re.findall(r"\b(8080|9464|5555)\b", " ".join([*words, *given.values()])))
        ports = {port: free_port() for port in sorted(inner)}
        env = {key: self._here(value, ports, asked) for key, value in given.items()}
        env |= {key: value for key, value in self.environment.items() if key in env}
        bare = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        root = self.roots / name
        root.mkdir(parents=True, exist_ok=True)
        return Native(
            name=name,
            argv=self._command(asked["command"], ports, asked),
            env={"HOME": str(root), **bare, **env},
            check=self._command(asked.get("healthcheck", {}).get("test", [])[1:], ports, asked),
            log=self.folder / f"{name}.log",
            root=root,
            ports=ports,
        )

    def _command(
        self, words: Sequence[str], ports: Mapping[str, int], asked: Mapping[str, Any]
    ) -> list[str]:
        there = [self._here(word, ports, asked) for word in words]
        if there[:1] == ["pixeltoll"]:
            return [sys.executable, "-m", "pixeltoll", *there[1:]]
        return [sys.executable, *there[1:]] if there[:1] == ["python"] else there

    def _here(self, word: str, ports: Mapping[str, int], asked: Mapping[str, Any]) -> str:
        for there, here in self.names.items():
            word = word.replace(there, here)
        for port, free in ports.items():
            word = re.sub(rf"\b{port}\b", str(free), word)
        for volume in asked.get("volumes", []):
            source, target = volume.split(":")[:2]
            folder = self.folder / source
            folder.mkdir(exist_ok=True)
            word = re.sub(rf"(^|(?<=[\s=,])){target}(?=/|$|\s)", str(folder), word)
        return word.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  not on a test's machine
