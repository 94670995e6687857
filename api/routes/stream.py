"""/stream: the pictures themselves. Their names cannot be guessed, so knowing one is the key."""

from __future__ import annotations

import re
from uuid import UUID

from flask import Blueprint, Response, request
from sqlalchemy import func, select

from api import render
from api.errors import PictureExpired, RangeNotSatisfiable
from api.openapi import Answer, Operation, operation
from api.runtime import Runtime, current
from tasks import formats
from tasks.errors import ObjectNotFound, StorageError
from tasks.tables import Job, Output

bp = Blueprint("stream", __name__, url_prefix="/stream")

_FRESH_S = 86_400
_KINDS = [one.content_type for one in formats.KINDS.values()]
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@bp.get("/<job_id>/<name>")
@operation(
    Operation(
        tag="pictures",
        security="none",
        headers={
            "Range": "One byte range, such as `bytes=0-1023`.",
            "If-None-Match": "An ETag of before.",
            "If-Range": "An ETag: send the range only if the picture is still that one.",
        },
        answers=[
            Answer(200, "The picture", content=_KINDS),
            Answer(206, "The bytes that were asked for", content=_KINDS),
            Answer(302, "Where the object store has it", headers={"Location": "A short-lived URL"}),
            Answer(304, "It has not changed"),
        ],
        errors=[ObjectNotFound, PictureExpired, RangeNotSatisfiable, StorageError],
    )
)
def picture(job_id: str, name: str) -> Response:
    """Fetch a picture. Its address needs no key: nobody can guess it."""
    runtime = current()
    output, age_s = _find(runtime, job_id, name)
    if runtime.settings.results != "stream":
        return _redirect(runtime, output)
    etag = output.sha256.hex()
    response = Response(mimetype=output.content_type)
    response.set_etag(etag)
    fresh_s = _fresh_s(runtime, age_s)
    response.headers["Cache-Control"] = f"private, max-age={fresh_s}, immutable"
    response.headers["Accept-Ranges"] = "bytes"
    # It is shown as a picture or not at all, whatever its bytes are.
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if request.if_none_match.contains_weak(etag):
        response.status_code = 304
        return response
    return _filled(response, runtime, output, _range(output, etag))


def _find(runtime: Runtime, job_id: str, name: str) -> tuple[Output, float]:
    """Return a picture, and how many seconds ago its job has ended.

    Raises:
        ObjectNotFound: There was never such a picture.
        PictureExpired: Its time is over.
    """
    try:
        known = UUID(job_id)
    except ValueError:
        raise ObjectNotFound(job_id) from None
    if not name.isprintable():
        raise ObjectNotFound(job_id)
    age = func.extract("epoch", func.now() - Job.finished_at)
    query = (
        select(Output, age, Job.kept)
        .join(Job, Job.id == Output.job_id)
        .where(Output.job_id == known, Output.name == name)
    )
    with runtime.reads() as session:
        found = session.execute(query).one_or_none()
    if found is None:
        raise ObjectNotFound(job_id)
    output, age_s, is_kept = found
    keep_s = runtime.task_settings.keep_results_s
    if not is_kept or 0 < keep_s <= age_s:
        raise PictureExpired
    return output, float(age_s)


def _fresh_s(runtime: Runtime, age_s: float) -> int:
    """Return how long a browser may keep the picture: no longer than we do."""
    keep_s = runtime.task_settings.keep_results_s
    return min(_FRESH_S, int(keep_s - age_s)) if keep_s else _FRESH_S


def _redirect(runtime: Runtime, output: Output) -> Response:
    url = render.object_url(output, runtime)
    return Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})


def _range(output: Output, etag: str) -> tuple[int, int] | None:
    """Return the first and last byte that are asked for; None for all of them.

    Several ranges, or one that is not understood, may be ignored, and are.

    Raises:
        RangeNotSatisfiable: The range begins after the last byte.
    """
    asked = _ONE_RANGE.fullmatch(request.headers.get("Range", ""))
    if asked is None or request.method != "GET" or not _is_current(etag):
        return None
    first, last = asked.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0:
            raise RangeNotSatisfiable(output.size_bytes)
        return max(0, output.size_bytes - int(last)), output.size_bytes - 1
    if last and int(last) < int(first):
        return None
    if int(first) >= output.size_bytes:
        raise RangeNotSatisfiable(output.size_bytes)
    return int(first), min(int(last or output.size_bytes), output.size_bytes - 1)


def _is_current(etag: str) -> bool:
    """Tell whether `If-Range`, if there is one, names this picture. It never matches by date."""
    asked = request.headers.get("If-Range")
    return asked is None or asked.strip() == f'"{etag}"'


def _filled(
    response: Response, runtime: Runtime, output: Output, part: tuple[int, int] | None
) -> Response:
    first, last = part or (0, output.size_bytes - 1)
    response.content_length = last - first + 1
    if part is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {first}-{last}/{output.size_bytes}"
    if request.method != "HEAD":
        wanted = None if part is None else f"bytes={first}-{last}"
        # The response closes the generator, and so its connection, even if the client leaves.
        response.response = runtime.store.open(output.key, wanted).chunks
    return response
