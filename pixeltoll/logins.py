"""How our processes log in to a database of the operator's own: with no more rights than they need.

The embedded database's service user is `pixeltoll.postgres`'.
"""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pixeltoll.errors import BadArgument

_APPLICATION = "pixeltoll_app"


def let_in(owners_url: str, service_url: str) -> None:
    """Let the user of `service_url` in, by its password, with the rights of `pixeltoll_app`.

    The user is made if there is none; one that there is gets this password, which is how it is
    changed. The server is sent what it keeps of a password, and never the password itself.

    Raises:
        BadArgument: The URL names no user, no password, or the one who owns the tables.
        psycopg.Error: The database does not answer, or the owner may not make users.
    """
    asked = conninfo_to_dict(service_url)
    user, password = asked.get("user"), asked.get("password")
    if not user or not password:
        message = (
            "PIXELTOLL_SERVICE_DATABASE_URL: names no user or no password; "
            "write it as postgresql://USER:PASSWORD@HOST/DATABASE."
        )
        raise BadArgument(message)
    with psycopg.connect(owners_url) as connection:
        if connection.info.user == user:
            message = (
                f"PIXELTOLL_SERVICE_DATABASE_URL: {user} owns the tables and could change the "
                "books; name another user, which is made."
            )
            raise BadArgument(message)
        kept = connection.pgconn.encrypt_password(
            str(password).encode(), str(user).encode(), b"scram-sha-256"
        )
        found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (user,))
        verb = "CREATE" if found.fetchone() is None else "ALTER"
        role, app = sql.Identifier(str(user)), sql.Identifier(_APPLICATION)
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                sql.SQL(verb), role, sql.Literal(kept.decode())
            )
        )
        connection.execute(sql.SQL("GRANT {} TO {}").format(app, role))
