"""A gateway's side of the API, over HTTP: ask, submit, watch a job, save its pictures.

Owns what is sent and how errors are told. What a person sees of it is the commands' business.
"""

from __future__ import annotations

import mimetypes
import time
import uuid
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import httpx

from ledger.money import plain
from pixeltoll.errors import NotReached, NotRead, NotWritten, Refused

Facts: TypeAlias = dict[str, Any]

FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
_TRIES = 4
_PAUSE_S = 0.5
# A little at a time, so that whoever watches sees the progress between.
_WAIT_S = 1
_TIMEOUT_S = 60.0
_LINKS = ("http", "https", "s3")
# As fine as any amount: a price above this would cost more than what was quoted.
_QUANTUM = Decimal(1).scaleb(-18)


class Client:
    """One gateway's, by its key. To be used as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        """Take where the API is; connects when it is first used."""
        self._api = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S
        )
        # Without the key: pictures may be somewhere else, and their links are permission enough.
        self._anybody = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close its connections."""
        self._api.close()
        self._anybody.close()

    def get(self, path: str, **params: str | int | None) -> Facts:
        """Ask for something.

        Raises:
            NotReached: There is no API.
            Refused: It says no.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return self._answer("GET", path, params=given)

    def post(self, path: str, **body: Any) -> Facts:  # noqa: ANN401  httpx's own
        """Send something. Sent again because the answer was lost, it is done once.

        Raises:
            NotReached: There is no API.
            Refused: It says no.
        """
        return self._answer("POST", path, headers={"Idempotency-Key": uuid.uuid4().hex}, **body)

    def watch(self, job: Facts) -> Iterator[Facts]:
        """Yield a job as it is, again and again, the last time when it has ended.

        Raises:
            NotReached: There is no API any more.
            Refused: It says no.
        """
        yield job
        while job["state"] not in FINAL:
            job = self.get(f"/v1/jobs/{job['id']}", wait=_WAIT_S)
            yield job

    def save(self, job: Facts, folder: Path, name: str = "") -> list[Path]:
        """Write a job's pictures into a folder, and return their files, named by it or as asked.

        Raises:
            NotReached: A picture cannot be had.
            NotWritten: A file cannot be written.
        """
        saved = []
        for number, picture in enumerate(job["outputs"]):
            suffix = mimetypes.guess_extension(picture["content_type"]) or ".png"
            path = folder / f"{name or job['id']}-{number}{suffix}"
            data = self._sent(self._anybody, "GET", picture["url"]).content
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError as error:
                raise NotWritten(path, error.strerror or str(error)) from error
            saved.append(path)
        return saved

    def _answer(self, method: str, path: str, **asked: Any) -> Facts:  # noqa: ANN401  httpx's own
        answer = self._sent(self._api, method, path, **asked)
        try:
            facts: Facts = answer.json()
        except ValueError:
            raise NotReached(str(answer.url), "this is not an API of Pixeltoll") from None
        return facts

    def _sent(self, by: httpx.Client, method: str, url: str, **asked: Any) -> httpx.Response:  # noqa: ANN401  the same
        """Return a good answer; what is lost on the way is sent again."""
        for tried in range(1, _TRIES + 1):
            try:
                answer = by.request(method, url, **asked)
            except httpx.InvalidURL as error:
                raise NotReached(url, str(error)) from error
            except httpx.TransportError as error:
                if tried == _TRIES:
                    where = str(by.base_url) or url
                    raise NotReached(where, str(error) or type(error).__name__) from error
                time.sleep(_PAUSE_S * tried)
                continue
            break
        if answer.is_error:
            raise Refused(answer.status_code, _detail(answer), _code(answer))
        return answer


def _problem(answer: httpx.Response) -> Facts:
    try:
        facts = answer.json()
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _code(answer: httpx.Response) -> str:
    return str(_problem(answer).get("code", "unknown"))


def _detail(answer: httpx.Response) -> str:
    """Return what an error says, with each field that is wrong."""
    facts = _problem(answer)
    said = str(facts.get("detail") or f"{answer.url} answers with status {answer.status_code}.")
    fields = [f"{one['field']}: {one['message']}" for one in facts.get("errors") or ()]
    return "\n  ".join([said, *fields])


def body_of(order: Mapping[str, object], image: str | None) -> Facts:
    """Return how an order is sent, with a picture that is a file or a link.

    Raises:
        NotRead: The file cannot be read.
    """
    given = {name: value for name, value in order.items() if value is not None}
    if image is None:
        return {"json": given}
    if urlsplit(image).scheme in _LINKS:
        return {"json": {**given, "image": image}}
    path = Path(image)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotRead(path, error.strerror or str(error)) from error
    # Named for nobody: what the file is called at home is not the API's business.
    return {
        "data": {name: str(value) for name, value in given.items()},
        "files": {"image": ("image", data)},
    }


def price_bound(quote: Facts) -> str:
    """Return the most per pixel that keeps a job at what was quoted, in the quote's currency."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(quote["amount"]) / quote["units"]
        return plain(exact.quantize(_QUANTUM, rounding=ROUND_CEILING))
