"""Types that tests share with the fixtures of conftest.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Servers:
    """The real servers that this test session runs on. The database role may create databases."""

    database_url: str
    redis_url: str
    s3_endpoint: str
    s3_access_key_id: str
    s3_secret_access_key: str

    def database(self, name: str) -> str:
        """The URL of another database on the same server."""
        head, _, query = self.database_url.partition("?")
        return f"{head.rpartition('/')[0]}/{name}?{query}"

    def redis(self, number: int) -> str:
        """The URL of one logical database, 0 to 15."""
        return f"{self.redis_url.rpartition('/')[0]}/{number}"
