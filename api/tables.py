"""The rows that HTTP needs of its own: API keys, and what gateways have set in a dialect."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, LargeBinary, func
from sqlalchemy.orm import Mapped, mapped_column

from ledger.db import Base


class ApiKey(Base):
    """A gateway's key: its public id and the SHA-256 of its secret, never the secret."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    name: Mapped[str]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class SdwebuiOptions(Base):
    """The model that a gateway's WebUI requests run when they name none."""

    __tablename__ = "sdwebui_options"

    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id"), primary_key=True)
    model_id: Mapped[str]
