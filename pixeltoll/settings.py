"""The roof's only reader of the environment: which servers are given, what children inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class UpSettings(BaseSettings):
    """What an operator brings along. A server whose URL is empty is embedded."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: str = Field("", description="PostgreSQL to use in place of the embedded one.")
    service_database_url: str = Field(
        "",
        validation_alias="PIXELTOLL_SERVICE_DATABASE_URL",
        description="How our processes reach a database of the operator's own; `pixeltoll db "
        "upgrade` makes its user, if it is given.",
    )
    flower_basic_auth: str = Field(
        "",
        validation_alias="FLOWER_BASIC_AUTH",
        description="Who may look at Flower: user:password, several with commas between.",
    )
    redis_url: str = Field("", description="Redis to use in place of the embedded one.")
    s3_endpoint: str = Field("", description="S3 server to use in place of the embedded one.")
    s3_bucket: str = Field("pixeltoll", description="Bucket of inputs and outputs.")
    s3_access_key_id: str = Field("", description="Access key of a given S3 server.")
    s3_secret_access_key: str = Field("", description="Secret of that access key.")
    admin_key: str = Field(
        "",
        validation_alias="PIXELTOLL_ADMIN_KEY",
        description="Key of the admin routes; empty means one that is made and kept.",
    )
    metrics_key: str = Field(
        "",
        validation_alias="PIXELTOLL_METRICS_KEY",
        description="Key of the API's `/metrics`; empty means one that is made and kept.",
    )
    model_cache: Path | None = Field(
        None,
        validation_alias="PIXELTOLL_MODEL_CACHE",
        description="Where models from s3:// sources are kept, if not in the data folder.",
    )
    catalog: Path | None = Field(
        None,
        validation_alias="PIXELTOLL_CATALOG",
        description="Models to offer in place of the demo models.",
    )
    loras: str | None = Field(
        None,
        validation_alias="PIXELTOLL_LORAS",
        description="LoRA adapters that jobs may use; if not given, the demo models' own, too.",
    )


class ClientSettings(BaseSettings):
    """Which API the commands of a gateway speak to, and as whom."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    url: str = Field(
        "",
        validation_alias="PIXELTOLL_URL",
        description="API that `pixeltoll submit` and `pixeltoll jobs` use; empty means the data "
        "folder's.",
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="PIXELTOLL_API_KEY",
        description="Key of the gateway that they are; empty means the demo gateway's.",
    )


def child_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment with `extra` on top, for a child to run in."""
    return {**os.environ, **extra}


def adopt(environment: Mapping[str, str]) -> None:
    """Make these variables this process's own, for settings that are read later.

    One that it has already stays: a worker of another orchestrator brings its own key.
    """
    os.environ.update({name: os.environ.get(name) or told for name, told in environment.items()})
