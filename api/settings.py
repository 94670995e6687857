"""The only reader of the environment on this floor."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ApiSettings(BaseSettings):
    """Who administers, how results are served, and how much a request may ask of a process."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    admin_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PIXELTOLL_ADMIN_KEY",
        description="Bearer key of the admin routes; empty means that they refuse everybody.",
    )
    metrics_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PIXELTOLL_METRICS_KEY",
        description="Bearer key that Prometheus reads `/metrics` with; empty means that there is "
        "no such page.",
    )
    public_url: str = Field(
        "",
        validation_alias="PIXELTOLL_PUBLIC_URL",
        description="Where clients reach this API, for the links in answers; empty means: as the "
        "request says.",
    )
    results: Literal["stream", "redirect"] = Field(
        "stream",
        validation_alias="PIXELTOLL_RESULTS",
        description="Pictures pass through the API, or clients are sent to the object store by a "
        "presigned link. Redirecting costs the API nothing, but clients must reach the store.",
    )
    redirect_expires_s: int = Field(
        900,
        gt=0,
        le=7 * 86_400,
        validation_alias="PIXELTOLL_REDIRECT_EXPIRES_S",
        description="How long a presigned link to a picture works.",
    )
    max_body_bytes: int = Field(
        30_000_000,
        gt=0,
        validation_alias="PIXELTOLL_MAX_BODY_BYTES",
        description="Largest request body accepted. A picture in base64 takes a third more than "
        "its file.",
    )
    max_deadline_s: int = Field(
        7 * 86_400,
        gt=0,
        validation_alias="PIXELTOLL_MAX_DEADLINE_S",
        description="A job's deadline is at most this far away: its funds are held until then.",
    )
    max_waiting: int = Field(
        6,
        ge=1,
        validation_alias="PIXELTOLL_MAX_WAITING",
        description="Requests of one process that may wait for their job at the same time; "
        "others are answered at once. Keep it below the process's threads.",
    )


# Named by prometheus_client, which reads it when it is imported.
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def metrics_folder() -> str:
    """Return where the processes of this API count together; nothing where there is one only."""
    return os.environ.get(_METRICS_FOLDER, "")


def share_metrics(folder: str) -> None:
    """Let the processes that are started from now on count together."""
    os.environ[_METRICS_FOLDER] = folder
