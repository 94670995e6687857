"""Every way in which this floor itself refuses a request, as one tree.

    ApiError
    |-- MalformedBody           not JSON, or not JSON that can be kept; half a form
    |-- UnsupportedContentType
    |-- NotAuthenticated        no key, or none that is valid
    |-- AdminDisabled           this installation has set no admin key
    |-- UnknownKey              an API key that the gateway does not have
    |-- OfferNotEditable        an offer is superseded, never edited
    |-- PictureExpired          a picture that was kept for as long as they are
    |-- NoPlaceToWait           a request must wait for its job, and cannot
    |   |-- TooManyWaiting      no thread is left to wait in
    |   `-- WaitingLimit        its gateway's own requests have taken what one gateway may
    `-- RangeNotSatisfiable     a byte range that begins after the end

What HTTP says about these, and about the errors of the floors below, is in `problems`.
"""

from __future__ import annotations

from collections.abc import Sequence


class ApiError(Exception):
    """Base of every error that this floor raises on purpose."""

    code = "api_error"


class MalformedBody(ApiError):
    """Raised when a body is no JSON, or JSON that nothing can keep, or half a form."""

    code = "malformed_body"


class UnsupportedContentType(ApiError):
    """Raised when a body has a content type that the route does not read."""

    code = "unsupported_content_type"

    def __init__(self, content_type: str, accepted: tuple[str, ...]) -> None:
        self.accepted = accepted
        said = f"The body is {content_type!r}" if content_type else "The body has no content type"
        super().__init__(f"{said}; send {' or '.join(accepted)}.")


class NotAuthenticated(ApiError):
    """Raised when a request brings no key, or none that is valid now."""

    code = "not_authenticated"


class AdminDisabled(ApiError):
    """Raised on admin routes where no admin key is set."""

    code = "admin_disabled"

    def __init__(self) -> None:
        super().__init__("No admin key is set. Start the API with PIXELTOLL_ADMIN_KEY to use this.")


class UnknownKey(ApiError):
    """Raised when a key is not one of the gateway's."""

    code = "unknown_key"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The gateway has no API key {key_id!r}; `pixeltoll key list` shows those that it has."
        )


class OfferNotEditable(ApiError):
    """Raised when an offer is to be changed; names the fields that were to be."""

    code = "offer_not_editable"

    def __init__(self, offer_id: int, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        super().__init__(
            f"Offer {offer_id} cannot be edited, because jobs were priced by it. Publish a new one "
            "with POST, which supersedes it, or withdraw it with DELETE."
        )


class PictureExpired(ApiError):
    """Raised when a picture is asked for that was kept for as long as pictures are."""

    code = "picture_expired"


class NoPlaceToWait(ApiError):
    """Base of what is raised when a request that must wait for its job finds no place for it."""

    code = "no_place_to_wait"


class TooManyWaiting(NoPlaceToWait):
    """Raised when every place to wait in is taken."""

    code = "too_many_waiting"


class WaitingLimit(NoPlaceToWait):
    """Raised when the requests of one gateway have taken as many places as one gateway may."""

    code = "waiting_limit"

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(
            f"{most} requests of this gateway wait for their pictures here, which is as many as "
            "one gateway may have. Nothing was submitted. Wait for an answer before you send "
            "more, or send `Prefer: respond-async` and poll the job."
        )


class RangeNotSatisfiable(ApiError):
    """Raised when a byte range begins after the last byte."""

    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"The picture has {size} bytes.")
