"""The schema of all floors, brought up to date by Alembic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationInfo
from alembic.script import ScriptDirectory

from ledger import db, snapshots

# Installed or checked out, the folder lies beside this package.
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def alembic_config(database_url: str) -> Config:
    """Return what Alembic's commands need to know, without reading a file or the environment."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def upgrade(
    database_url: str, move: Callable[[int, int], None] = lambda _done, _total: None
) -> None:
    """Bring a database to the newest schema, and drop what is of another server.

    `move` is told how many migrations are done, and of how many.
    """
    config = alembic_config(database_url)
    config.attributes["on_version_apply"] = _counter(config, move)
    command.upgrade(config, "head")
    _drop_unreached_snapshots(database_url)


def _drop_unreached_snapshots(database_url: str) -> None:
    # The database may have been restored from a dump just now, and no scheduler is at work yet.
    engine = db.make_engine(database_url)
    try:
        with db.session_factory(engine).begin() as session:
            snapshots.drop_unreached(session)
    finally:
        engine.dispose()


def _counter(config: Config, move: Callable[[int, int], None]) -> Callable[..., None]:
    """Return what Alembic is to call after each migration."""
    script = ScriptDirectory.from_config(config)
    total = 0

    def applied(*, step: MigrationInfo, **_: object) -> None:
        # Only the first one shows where the database stood: another migrator was waited for.
        nonlocal total
        newest_first = [one.revision for one in script.walk_revisions()]
        left = newest_first.index(str(step.up_revision_id))
        total = total or left + 1
        move(total - left, total)

    return applied
