"""What a key looks like."""

from __future__ import annotations

import re

from tasks import keys


def test_a_key_is_read_as_it_was_written() -> None:
    key = keys.make()
    written = key.written("po")
    assert re.fullmatch(r"po_[0-9a-z]{12}_[0-9A-Za-z]{49}", written)
    assert keys.read("po", written) == key
    assert keys.read("px", written) is None
    assert keys.make() != key


def test_a_key_opens_its_own_hash_only() -> None:
    key = keys.make()
    assert key.opens(key.secret_hash)
    assert not key.opens(keys.make().secret_hash)
    assert not key.opens(None)


def test_base_62_writes_all_bits_in_a_fixed_width() -> None:
    assert keys._base62(0, 6) == "000000"
    assert keys._base62(61, 2) == "0z"
    assert keys._base62(62, 2) == "10"
    largest = keys._base62(2**256 - 1, 43)
    assert re.fullmatch(r"[0-9A-Za-z]{43}", largest)
    assert sum(keys._DIGITS.index(c) * 62**n for n, c in enumerate(reversed(largest))) == 2**256 - 1


def test_a_checksum_catches_any_single_typing_error() -> None:
    written = keys.make().written("po")
    for place in range(16, len(written) - 6):
        wrong = written[:place] + ("a" if written[place] != "a" else "b") + written[place + 1 :]
        assert keys.read("po", wrong) is None
