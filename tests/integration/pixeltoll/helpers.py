"""Somebody at a terminal: runs commands and reads what they say."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest

from pixeltoll import cli
from tasks import claims
from tasks.claims import NewOutput
from tasks.tables import Job
from tests import stage as stages
from tests.stage import Stage

# Built once: that takes longer than most commands.
_COMMAND = cli.program()


@dataclass(frozen=True)
class Ended:
    """What a command said."""

    stdout: str
    stderr: str


class Operator:
    """Runs commands as somebody at a terminal does."""

    def run(self, *arguments: str, status: int = 0) -> str:
        return self.ended(*arguments, status=status).stdout

    def ended(self, *arguments: str, status: int = 0) -> Ended:
        """Run a command to its end."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            _COMMAND.main(list(arguments), "pixeltoll")
        assert ended.value.code == status, err.getvalue()
        return Ended(out.getvalue(), err.getvalue())

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status))

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json(*arguments)["data"]
        return rows

    def complaint(self, *arguments: str) -> str:
        """Return the message of a command that cannot do its work, and so ends with status 1."""
        said = io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["pixeltoll", *arguments]),
            mock.patch.object(cli, "program", return_value=_COMMAND),
            contextlib.redirect_stderr(said),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
        assert ended.value.code == 1, said.getvalue()
        return said.getvalue()


def done(stage: Stage, **asked: Any) -> Job:
    """Run a job, and charge it."""
    job = stage.submit(**asked)
    [claimed] = stage.claim()
    with stage.sessions.begin() as session:
        assert claims.succeed(session, {(job.id, claimed.attempt): outputs(claimed)}) == {job.id}
    return job


def outputs(job: Job) -> list[NewOutput]:
    """The pictures that a claimed job was to make."""
    return [
        NewOutput(
            index=index,
            name=f"{index}.png",
            key=f"outputs/{job.id}/{job.attempt}/{index}.png",
            seed=index,
            nsfw=None,
            width=stages.SIDE,
            height=stages.SIDE,
            content_type="image/png",
            size_bytes=3,
            sha256=b"x" * 32,
        )
        for index in range(job.num_images)
    ]
