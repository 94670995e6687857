"""Where the WebUI's routes are, and in which shape their errors leave."""

from __future__ import annotations

from flask import Blueprint

from api.dialects.sdwebui import answers

bp = Blueprint("sdwebui", __name__, url_prefix="/sdapi/v1")
bp.register_error_handler(Exception, answers.respond)
