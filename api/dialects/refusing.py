"""What no route takes, but stands at a dialect's address, is refused in that dialect's words."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import MethodNotAllowed

from api import problems
from api.dialects.aws import answers as aws
from api.dialects.livepeer import answers as livepeer
from api.dialects.sdwebui import answers as sdwebui

# By the name of the blueprint; Livepeer's has a number after it at its further addresses.
_TOLD = {"aws": aws.respond, "livepeer": livepeer.respond, "sdwebui": sdwebui.respond}


def install(app: Flask) -> None:
    """Refuse other methods at the addresses of the dialects, which the app has by now."""
    told = {
        rule.rule: _TOLD[name]
        for rule in app.url_map.iter_rules()
        if (name := rule.endpoint.partition(".")[0].partition("_")[0]) in _TOLD
    }

    def refuse_method(error: MethodNotAllowed) -> Response:
        """A method that no route takes reaches no blueprint: its address says whose it would be."""
        return told.get(request.path.rstrip("/"), problems.respond)(error)

    app.register_error_handler(MethodNotAllowed, refuse_method)
