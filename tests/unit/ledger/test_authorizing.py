"""The statement that makes a hold with its companion is built once, whoever comes first."""

from __future__ import annotations

import threading

from ledger import authorizing
from tasks import placing


def test_threads_that_come_at_once_use_one_statement() -> None:
    """Rows of one are unreadable by the columns of its twin, for as long as the process lives."""
    authorizing._built_together.cache_clear()
    start = threading.Barrier(32)
    found: list[object] = []

    def build() -> None:
        start.wait()
        found.append(authorizing._together(placing._WITH_JOB))

    threads = [threading.Thread(target=build) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(one) for one in found}) == 1
