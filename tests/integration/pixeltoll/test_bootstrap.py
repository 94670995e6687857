"""The first rows of a stack: enough to run the demo, made once, and left alone ever after."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from api import auth
from ledger import accounts, limits, offers
from ledger.money import unit_price
from ledger.offers import Capability
from pixeltoll import bootstrap
from pixeltoll.bootstrap import DEMO
from tasks import registration
from tasks.errors import CatalogError

SERVED = [
    Capability("text-to-image", "pixeltoll/one"),
    Capability("image-to-image", "pixeltoll/two"),
]
PRICE = unit_price("0.000000019073484", 1, "USD")


def first_rows(session: Session, known_key: str = "") -> str:
    bootstrap.demo_orchestrator(session, "USD", SERVED)
    gateway = bootstrap.demo_gateway(session, "USD")
    return bootstrap.demo_key(session, gateway, known_key)


def test_a_new_stack_can_pay_and_be_paid(session_factory: sessionmaker[Session]) -> None:
    with session_factory.begin() as session:
        key = first_rows(session)

    with session_factory.begin() as session:
        gateway = accounts.find_gateway(session, DEMO)
        assert accounts.balance(session, gateway.id).available == Decimal(10)
        assert {offer.capability for offer in offers.live(session)} == set(SERVED)
        limit = limits.effective(limits.list_limits(session, gateway.id), SERVED[0])
        assert limit is not None
        assert limit.allows(PRICE)
        assert accounts.find_orchestrator(session, DEMO).fee_rate == Decimal("0.1")
    assert auth.authenticate(session_factory, f"Bearer {key}").gateway_id == gateway.id


def test_a_second_start_adds_nothing(session_factory: sessionmaker[Session]) -> None:
    with session_factory.begin() as session:
        key = first_rows(session)

    with session_factory.begin() as session:
        again = first_rows(session, key)

    assert again == key
    with session_factory.begin() as session:
        gateway = accounts.find_gateway(session, DEMO)
        assert accounts.balance(session, gateway.id).available == Decimal(10)
        assert len(offers.live(session)) == len(SERVED)
        assert len(auth.list_keys(session, gateway.id)) == 1


def test_what_an_operator_changed_stays_changed(session_factory: sessionmaker[Session]) -> None:
    with session_factory.begin() as session:
        first_rows(session)
        gateway = accounts.find_gateway(session, DEMO)
        limits.replace_limits(session, gateway.id, [], "USD")
        withdrawn, kept = offers.live(session)
        offers.withdraw(session, withdrawn)

    with session_factory.begin() as session:
        first_rows(session)

    with session_factory.begin() as session:
        assert limits.list_limits(session, gateway.id) == []
        assert [offer.capability for offer in offers.live(session)] == [kept.capability]


def test_a_revoked_key_is_replaced(session_factory: sessionmaker[Session]) -> None:
    with session_factory.begin() as session:
        key = first_rows(session)
        gateway = accounts.find_gateway(session, DEMO)
        (row,) = auth.list_keys(session, gateway.id)
        auth.revoke_key(session, gateway.id, row.id)

        assert first_rows(session, key) != key


def test_every_pipeline_of_the_catalogs_own_models_is_served(tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text("""
[[model]]
model_id = "my/model"
source = "my/model"
layout = "stable-diffusion"
pipelines = ["text-to-image", "image-to-image"]
revision = "0123456789012345678901234567890123456789"
""")

    assert bootstrap.capabilities(tmp_path / "catalog.toml") == [
        Capability("text-to-image", "my/model"),
        Capability("image-to-image", "my/model"),
        # Nobody has to bring weights for these.
        Capability("upscale", "pixeltoll/lanczos"),
        Capability("upscale", "pixeltoll/nearest"),
    ]


def test_a_catalog_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="missing"):
        bootstrap.capabilities(tmp_path / "missing")


def test_the_worker_keeps_its_key_until_it_is_revoked(
    session_factory: sessionmaker[Session],
) -> None:
    with session_factory.begin() as session:
        owner = bootstrap.demo_orchestrator(session, "USD", SERVED)
        key = bootstrap.worker_key(session, owner, "")
        assert bootstrap.worker_key(session, owner, key) == key
        [row] = registration.list_keys(session, owner.id)
        registration.revoke_key(session, owner.id, row.id)
        again = bootstrap.worker_key(session, owner, key)
        assert registration.authenticate(session, again) is owner
