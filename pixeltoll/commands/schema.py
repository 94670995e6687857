"""The command that brings the database's schema up to date."""

from __future__ import annotations

import typer

from pixeltoll import logins, migrate
from pixeltoll.console import counted, tell
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir
from pixeltoll.settings import UpSettings
from pixeltoll.state import Connection

db_app = typer.Typer(no_args_is_help=True, help="The database's schema.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(db_app, name="db")


@db_app.command("upgrade")
def upgrade(data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Bring the database to the newest schema, and let PIXELTOLL_SERVICE_DATABASE_URL's user in."""
    given = UpSettings()
    owners_url = given.database_url or Connection.read(data_dir).owner_database_url
    with counted("migrations", as_json=as_json) as move:
        migrate.upgrade(owners_url, move)
    if given.service_database_url:
        logins.let_in(owners_url, given.service_database_url)
    tell("The schema is up to date.", {"upgraded": True}, as_json=as_json)
