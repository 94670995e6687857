"""The API of the Stable Diffusion WebUI: `/sdapi/v1/...`."""

from api.dialects.sdwebui import lists, routes, state
from api.dialects.sdwebui.blueprint import bp

__all__ = ["bp", "lists", "routes", "state"]
