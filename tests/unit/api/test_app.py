"""How the app is put together: nothing heavy is loaded, nothing reached, nothing unguarded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flask import Flask

from api import openapi
from api.routes.admin.views import GatewayView
from api.runtime import build
from api.settings import ApiSettings

HEAVY = ["torch", "diffusers", "transformers", "PIL", "boto3", "flask_openapi3", "opentelemetry"]


def test_importing_the_app_reaches_nothing_and_loads_nothing_heavy() -> None:
    script = f"""
import socket, sys
def refuse(*_): raise AssertionError("connected")
socket.socket.connect = refuse
import api.wsgi
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"


def test_the_runtime_is_built_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELTOLL_ADMIN_KEY", "hunter2")
    monkeypatch.setenv("PIXELTOLL_MAX_BODY_BYTES", "1000")
    runtime = build()
    assert runtime.settings.admin_key.get_secret_value() == "hunter2"
    assert runtime.settings.max_body_bytes == 1000
    assert "hunter2" not in repr(runtime)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in ApiSettings.model_fields.values())


def test_a_route_that_does_not_describe_itself_is_not_served() -> None:
    app = Flask("x", static_folder=None)
    app.add_url_rule("/open", "open", lambda: "x")
    with pytest.raises(LookupError, match="no @operation"):
        openapi.document(app)


def test_a_summary_is_the_first_line_and_the_rest_describes() -> None:
    app = Flask("x", static_folder=None)

    @openapi.operation(
        openapi.Operation(
            tag="t", security="none", answers=[openapi.Answer(200, "It", GatewayView)]
        )
    )
    def view() -> str:
        """Do it.

        Then rest.
        """
        return ""

    app.add_url_rule("/it/<job_id>", "it", view)
    found = openapi.document(app)["paths"]["/it/{job_id}"]["get"]
    assert (found["summary"], found["description"]) == ("Do it.", "Then rest.")
    assert found["parameters"][0]["schema"]["format"] == "uuid"
