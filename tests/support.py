"""Types that tests share with the fixtures of conftest.py."""

from __future__ import annotations

from dataclasses import dataclass

OWNER, APPLICATION = "pixeltoll", "application"


@dataclass(frozen=True)
class Servers:
    """The real servers that this test session runs on.

    The role of `database_url` owns the databases and may create more. What is tested runs as
    `APPLICATION`, with no more rights than production gives it.
    """

    database_url: str
    redis_url: str
    s3_endpoint: str
    s3_access_key_id: str
    s3_secret_access_key: str

    def database(self, name: str) -> str:
        """The URL of another database on the same server."""
        head, _, query = self.database_url.partition("?")
        return f"{head.rpartition('/')[0]}/{name}?{query}"

    def application(self, name: str) -> str:
        """The URL of a migrated database as Pixeltoll's own processes use it."""
        return self.database(name).replace(f"//{OWNER}@", f"//{APPLICATION}@")

    def redis(self, number: int) -> str:
        """The URL of one logical database, 0 to 15."""
        return f"{self.redis_url.rpartition('/')[0]}/{number}"
