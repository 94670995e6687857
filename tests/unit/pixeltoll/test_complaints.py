"""What an operator is told of an error: what is wrong, what to do, and no secret."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, UndefinedTable
from sqlalchemy.exc import IntegrityError, ProgrammingError

from ledger.errors import NothingOwed
from pixeltoll import complaints
from pixeltoll.console import Format, render
from pixeltoll.embedded import free_port
from tests.integration.pixeltoll.helpers import Operator

NOWHERE = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x"
SET = "PIXELTOLL_METRICS_PORT: Input should be a valid integer"


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        ({"DATABASE_URL": "hunter2"}, ("gateway", "list"), "postgresql://USER:PASSWORD@HOST"),
        ({"DATABASE_URL": NOWHERE}, ("gateway", "list"), "`pixeltoll doctor`"),
        ({"PIXELTOLL_METRICS_PORT": "hunter2"}, ("doctor",), SET),
        ({"REDIS_URL": "me:hunter2@redis"}, ("doctor",), "REDIS_URL: String should match"),
        ({"S3_ENDPOINT": "me:hunter2@s3"}, ("doctor",), "S3_ENDPOINT: String should match"),
        (
            {"PIXELTOLL_URL": "http://127.0.0.1", "PIXELTOLL_API_KEY": "hunter2\xe9"},
            ("jobs", "list"),
            "PIXELTOLL_API_KEY: is not a key",
        ),
        ({}, ("gateway", "list", "--data-dir", "/dev/null"), "connection.json: Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_was_given_wrong_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    if arguments == ("doctor",):
        monkeypatch.setenv("DATABASE_URL", NOWHERE)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    said = Operator().complaint(*arguments)

    assert said.startswith("pixeltoll: "), said
    assert words in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NothingOwed("ETH"), "amount: nothing is owed in ETH"),
        (UndefinedTable("no jobs\nLINE 1: SELECT"), "no jobs\n  The schema is of"),
        (
            InsufficientPrivilege("permission denied"),
            "permission denied\n  Let DATABASE_URL",
        ),
        (psycopg.OperationalError("refused\n\tIs it there?"), "refused\n  `pixeltoll doctor`"),
    ],
)
def test_what_the_database_says_comes_with_what_to_do(error: Exception, said: str) -> None:
    assert str(complaints.words(error)).startswith(said)
    if isinstance(error, psycopg.Error):
        wrapped = ProgrammingError("SELECT 1", {"prompt": "hunter2"}, error)
        assert complaints.words(wrapped) == complaints.words(error)


@pytest.mark.parametrize("error", [KeyError("x"), IntegrityError("", None, ValueError())])
def test_a_defect_comes_with_its_traceback(error: Exception) -> None:
    assert complaints.words(error) is None


@pytest.mark.parametrize("how", Format)
def test_what_is_written_is_what_is_there(how: Format) -> None:
    prompt = "a :cat: of [red]ink[/]"

    assert prompt in render(["prompt"], [{"prompt": prompt}], how)
