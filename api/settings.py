"""The only reader of the environment on this floor."""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
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
    results: Literal["stream", "redirect", "presigned", "public"] = Field(
        "stream",
        validation_alias="PIXELTOLL_RESULTS",
        description="Where the links to pictures lead. `stream`: through the API. `redirect`: to "
        "the API, which sends clients to the object store. `presigned`: to the store, for a while. "
        "`public`: to PIXELTOLL_RESULTS_URL. But for `stream`, clients must reach the store.",
    )
    results_url: str = Field(
        "",
        validation_alias="PIXELTOLL_RESULTS_URL",
        description="Where everybody may read the bucket, such as a CDN in front of it.",
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
        512,
        ge=1,
        validation_alias="PIXELTOLL_MAX_WAITING",
        description="Requests of one process that may wait for their job at the same time; "
        "others are answered at once. Keep it below the process's threads.",
    )
    max_waiting_each: int = Field(
        500,
        ge=1,
        validation_alias="PIXELTOLL_MAX_WAITING_EACH",
        description="How many of them may be one gateway's, so that none takes every place.",
    )
    livepeer_prefixes: str = Field(
        "/api/beta/generate",
        validation_alias="PIXELTOLL_LIVEPEER_PREFIXES",
        description="Where the Livepeer gateway's routes are too, beside the root; commas divide.",
    )
    livepeer_timeout_s: float = Field(
        300.0,
        gt=0,
        validation_alias="PIXELTOLL_LIVEPEER_TIMEOUT_S",
        description="How long a Livepeer request waits for its pictures before it answers 504 "
        "with the job's id. The job goes on, and can be polled.",
    )
    livepeer_text_to_image_model: str = Field(
        "",
        validation_alias="PIXELTOLL_LIVEPEER_TEXT_TO_IMAGE_MODEL",
        description="The model of Livepeer requests that name none; empty means the catalog's "
        "first one that is offered.",
    )
    livepeer_image_to_image_model: str = Field(
        "",
        validation_alias="PIXELTOLL_LIVEPEER_IMAGE_TO_IMAGE_MODEL",
        description="The same for image-to-image.",
    )
    livepeer_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PIXELTOLL_LIVEPEER_KEY",
        description="The gateway's key that Livepeer requests without one are let in with, as "
        "Livepeer's own gateway asks for none. Empty means that they are refused. Whoever reaches "
        "this API spends that gateway's funds.",
    )

    sdwebui_timeout_s: float = Field(
        600.0,
        gt=0,
        validation_alias="PIXELTOLL_SDWEBUI_TIMEOUT_S",
        description="How long a WebUI request waits for its pictures before it answers 504 with "
        "the job's id. The job goes on, and can be polled.",
    )

    @model_validator(mode="after")
    def _know_where_public_results_are(self) -> Self:
        if self.results == "public" and not self.results_url:
            raise ValueError("PIXELTOLL_RESULTS=public needs PIXELTOLL_RESULTS_URL")
        return self

    @property
    def livepeer_mounts(self) -> tuple[str, ...]:
        """Where the Livepeer routes are: at the root, and under each prefix."""
        parts = (part.strip().strip("/") for part in self.livepeer_prefixes.split(","))
        return ("", *dict.fromkeys(f"/{part}" for part in parts if part))


# Named by prometheus_client, which reads it when it is imported.
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def metrics_folder() -> str:
    """Return where the processes of this API count together; nothing where there is one only."""
    return os.environ.get(_METRICS_FOLDER, "")


def share_metrics(folder: str) -> None:
    """Let the processes that are started from now on count together."""
    os.environ[_METRICS_FOLDER] = folder
