"""What `pixeltoll doctor` looks at: each thing that an installation stands on, and what to do.

Every check is asked of the real thing, changes nothing that stays, and ends in time. What it finds
is a value; how that is shown is the command's business.
"""

from __future__ import annotations

import importlib.util
import platform
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Literal, TypeAlias

import redis
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from packaging.requirements import Requirement
from packaging.version import Version
from sqlalchemy import Connection, Engine, text

from ledger import db
from pixeltoll.migrate import alembic_config
from tasks import draining, telemetry
from tasks.settings import TaskSettings
from tasks.storage import ObjectStore

State: TypeAlias = Literal["ok", "warning", "wrong"]

_TIMEOUT_S = 5.0
_POSTGRES = 140_000
# Celery's queues that expire are kept by `ZADD GT`, which there is since then. Valkey says which
# Redis it is like.
_REDIS = Version("6.2")
# Of what an installation may have beyond what every one needs, tools of development may be any.
_TOOLS = "dev"
# Beyond the first, times in answers are off; beyond the other, S3 refuses what we sign.
_SKEW_S, _SKEW_MAX_S = 2.0, 300.0
_FULL = 0.8
_GIB = 2**30

# Work that only a scheduler does, and that is more overdue than one that works ever lets it be.
_OVERDUE = text("""
SELECT count(*) FROM (
    (SELECT id FROM jobs WHERE state = 'running' AND lease_expires_at < now() - interval '1 min'
      LIMIT 1000)
    UNION
    (SELECT id FROM jobs WHERE state IN ('queued', 'running')
        AND deadline < now() - interval '1 min' LIMIT 1000)
) AS overdue
""")
_CAN_CHANGE = text("SELECT has_table_privilege('postings', 'UPDATE')")


@dataclass(frozen=True)
class Finding:
    """What was found of one thing, and what to do where it is not well."""

    check: str
    state: State
    found: str
    advice: str = ""


def examine(database_url: str, settings: TaskSettings) -> Iterator[Finding]:
    """Look at one thing after the other. Raises nothing: what fails is a finding."""
    engine = db.make_engine(database_url, pool_size=2)
    try:
        yield _versions()
        database = _tried("database", lambda: _database(engine), _DATABASE_ADVICE)
        yield database
        if database.state != "wrong":
            yield from _of_database(engine, database_url)
    finally:
        engine.dispose()
    yield _tried("broker", lambda: _broker(settings.redis_url), "Start it, or correct REDIS_URL.")
    yield _tried("storage", lambda: _storage(settings), _STORAGE_ADVICE)
    yield _tried("gpu", _gpu, "Reinstall torch: `pip install --force-reinstall torch`.")


_DATABASE_ADVICE = "Start it, or correct DATABASE_URL."
_STORAGE_ADVICE = (
    "Check S3_ENDPOINT, S3_BUCKET and its keys; `pixeltoll bootstrap` makes the bucket."
)


def _of_database(engine: Engine, database_url: str) -> Iterator[Finding]:
    """Look at what is in a database that answers; of an old schema, no more is asked."""
    migrations = _tried("migrations", lambda: _migrations(engine, database_url), _DATABASE_ADVICE)
    yield migrations
    yield _tried("clock", lambda: _clock(engine), _DATABASE_ADVICE)
    if migrations.state == "wrong":
        return
    for name, check in (("rights", _rights), ("workers", _workers), ("scheduler", _scheduler)):
        yield _tried(name, partial(check, engine), _DATABASE_ADVICE)


def _tried(name: str, check: Callable[[], Finding], advice: str) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  whatever it is, it is what was found
        return Finding(name, "wrong", telemetry.brief(error), advice)


def _versions() -> Finding:
    """Compare what is installed with what this program needs, and what it can use."""
    wrong = []
    extras = {*(metadata.metadata("pixeltoll").get_all("Provides-Extra") or ()), ""} - {_TOOLS}
    for line in metadata.requires("pixeltoll") or ():
        needed = Requirement(line)
        try:
            has = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            has = "none" if _is_for(needed, "") else ""
        # Not every machine needs an extra; one that is there must fit, or a worker fails with it.
        if not has or not any(_is_for(needed, extra) for extra in extras):
            continue
        if has == "none" or not needed.specifier.contains(has, prereleases=True):
            wrong.append(f"{needed.name} {has}, not {needed.specifier}")
    if wrong:
        advice = "Install again, with the constraints of this release."
        return Finding("versions", "wrong", "; ".join(wrong), advice)
    has = f"pixeltoll {metadata.version('pixeltoll')}, Python {platform.python_version()}"
    return Finding("versions", "ok", f"{has} on {sys.platform}")


def _is_for(needed: Requirement, extra: str) -> bool:
    """Tell whether a requirement is one of this machine's with an extra, or without any."""
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _database(engine: Engine) -> Finding:
    with engine.connect() as connection:
        version = int(str(connection.scalar(text("SHOW server_version_num"))))
        shown = connection.scalar(text("SHOW server_version"))
    if version < _POSTGRES:
        return Finding("database", "wrong", f"PostgreSQL {shown}", "It must be 14 or later.")
    return Finding("database", "ok", f"PostgreSQL {shown}")


def _migrations(engine: Engine, database_url: str) -> Finding:
    script = ScriptDirectory.from_config(alembic_config(database_url))
    head = script.get_current_head()
    with engine.connect() as connection:
        has = _revision(connection)
    if has == head:
        return Finding("migrations", "ok", f"the schema is {head}")
    if has is None or any(one.revision == has for one in script.walk_revisions()):
        found = f"the schema is {has or 'not there'}, and this program's is {head}"
        return Finding("migrations", "wrong", found, "Run `pixeltoll db upgrade`.")
    found = f"the schema is {has}, which this program does not know"
    return Finding("migrations", "wrong", found, "Start the release that upgraded the database.")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _clock(engine: Engine) -> Finding:
    """Compare our clock with the database's, which is the one that counts."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        before = time.time()
        theirs = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
        after = time.time()
    off_s = (before + after) / 2 - float(str(theirs))
    found = f"{abs(off_s):.1f} s {'ahead of' if off_s > 0 else 'behind'} the database's"
    advice = "Set both machines' clocks by NTP."
    if abs(off_s) > _SKEW_MAX_S:
        return Finding("clock", "wrong", found, f"{advice} S3 refuses what this machine signs.")
    if abs(off_s) > _SKEW_S:
        return Finding("clock", "warning", found, advice)
    return Finding("clock", "ok", found)


def _rights(engine: Engine) -> Finding:
    with engine.connect() as connection:
        can_change = connection.scalar(_CAN_CHANGE)
        who = connection.scalar(text("SELECT current_user"))
    if can_change:
        advice = (
            "Let DATABASE_URL log in as a user in the role pixeltoll_app: see the ledger's page."
        )
        return Finding("rights", "warning", f"{who} could change the books", advice)
    return Finding("rights", "ok", f"{who} cannot change the books")


def _workers(engine: Engine) -> Finding:
    with db.session_factory(engine).begin() as session:
        live = sum(one.state == "live" for one in draining.look(session))
    if not live:
        return Finding("workers", "warning", "none is live", "Start one: `pixeltoll worker`.")
    return Finding("workers", "ok", f"{live} live")


def _scheduler(engine: Engine) -> Finding:
    with engine.connect() as connection:
        overdue = connection.scalar(_OVERDUE)
    if overdue:
        advice = "Start one: `pixeltoll scheduler`. If one runs, its log says what fails."
        return Finding("scheduler", "wrong", f"{overdue} jobs that none has seen to", advice)
    return Finding("scheduler", "ok", "nothing is overdue")


def _broker(url: str) -> Finding:
    with redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
    ) as client:
        info: Mapping[str, Any] = client.info("everything")
    version = info.get("valkey_version") or info.get("redis_version")
    if Version(str(info.get("redis_version", _REDIS))) < _REDIS:
        advice = f"It must be Redis {_REDIS} or later, or Valkey."
        return Finding("broker", "wrong", f"version {version}", advice)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy != "noeviction" and most:
        advice = "Set `maxmemory-policy noeviction`: evicting a queue drops every message in it."
        return Finding("broker", "wrong", f"maxmemory-policy is {policy}", advice)
    if most and used > _FULL * most:
        advice = "Give it more memory, or find who else fills it: when it is full, no bell rings."
        return Finding("broker", "warning", f"{used} of {most} bytes are used", advice)
    if not info.get("aof_enabled"):
        advice = "Set `appendonly yes`: or bells are lost with it, and ring again a little later."
        return Finding("broker", "warning", "nothing is kept over a restart", advice)
    if info.get("aof_last_write_status", "ok") != "ok":
        advice = "Look at its disk: what it is sent is not written."
        return Finding("broker", "wrong", "its last write to disk failed", advice)
    return Finding("broker", "ok", f"version {version}, with an append-only file")


def _storage(settings: TaskSettings) -> Finding:
    store = ObjectStore.from_settings(settings)
    # One try, before what is patient.
    store.ping()
    key, data = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(64)
    store.put(key, data, "application/octet-stream")
    read = store.get(key)
    store.delete([key])
    if read != data:
        return Finding("storage", "wrong", "what is read is not what was written", _STORAGE_ADVICE)
    return Finding("storage", "ok", f"bucket {settings.s3_bucket} is written, read and deleted")


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "ok", "torch is not installed: no worker runs here")
    # Here and not above: it loads torch.
    from tasks.engine import devices

    machine = devices.look()
    broken = [f"{one.name}: {one.error}" for one in machine.devices if one.error]
    if broken:
        advice = "Look at `nvidia-smi` and the driver's log; a GPU that has faulted needs a reset."
        return Finding("gpu", "wrong", "; ".join(broken), advice)
    if machine.devices:
        shown = [
            f"{one.name}, {one.free_bytes / _GIB:.0f} of {one.memory_bytes / _GIB:.0f} GiB free"
            for one in machine.devices
        ]
        return Finding("gpu", "ok", "; ".join(shown))
    if machine.cuda is None:
        advice = "For a GPU, install torch as PyPI has it; for a CPU, nothing is to be done."
        found = f"torch {machine.torch} is built without CUDA: models run on the CPU"
        return Finding("gpu", "warning", found, advice)
    advice = "If there is one: install NVIDIA's driver, and give the container its device."
    return Finding("gpu", "warning", "none is seen: models run on the CPU", advice)
