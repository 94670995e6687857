"""What commands do for servers of the operator's own: logins, keys in files, Flower's password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from pydantic import SecretStr

from pixeltoll import logins
from pixeltoll.errors import BadArgument
from pixeltoll.settings import adopt
from tasks import catalog
from tasks.errors import NotRegistered
from tasks.settings import TaskSettings
from tests.databases import administer
from tests.integration.pixeltoll.helpers import Operator
from tests.support import OWNER, Servers

USER = "somebody"


@pytest.fixture
def owners_url(servers: Servers, migrated: str) -> Iterator[str]:
    yield servers.database("postgres")
    administer(servers, f"DROP ROLE IF EXISTS {USER}")


def service_url(owners_url: str, user: str = USER, password: str = "first") -> str:  # noqa: S107
    return owners_url.replace(f"//{OWNER}@", f"//{user}:{password}@")


def kept(owners_url: str) -> str:
    with psycopg.connect(owners_url) as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (USER,))
        return str((row.fetchone() or ("",))[0])


def test_a_service_user_has_the_rights_of_the_application(owners_url: str) -> None:
    logins.let_in(owners_url, service_url(owners_url))

    with psycopg.connect(service_url(owners_url)) as connection:
        assert connection.info.user == USER
        row = connection.execute("SELECT pg_has_role(current_user, 'pixeltoll_app', 'USAGE')")
        assert row.fetchone() == (True,)
        with pytest.raises(InsufficientPrivilege):
            connection.execute("CREATE ROLE another")


def test_a_password_is_changed_by_asking_again(owners_url: str) -> None:
    logins.let_in(owners_url, service_url(owners_url))
    first = kept(owners_url)
    logins.let_in(owners_url, service_url(owners_url, password="second"))

    assert first.startswith("SCRAM-SHA-256$")
    assert kept(owners_url) != first


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [(OWNER, "secret", "owns the tables"), (USER, "", "no password"), ("", "secret", "no user")],
)
def test_a_url_that_would_not_do_is_refused(
    owners_url: str, user: str, password: str, why: str
) -> None:
    with pytest.raises(BadArgument, match=f"PIXELTOLL_SERVICE_DATABASE_URL: .*{why}"):
        logins.let_in(owners_url, service_url(owners_url, user, password))


def test_a_workers_key_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("po_abc\n")
    settings = TaskSettings(PIXELTOLL_ORCHESTRATOR_KEY_FILE=path)

    assert settings.with_key().orchestrator_key.get_secret_value() == "po_abc"
    given = settings.model_copy(update={"orchestrator_key": SecretStr("po_given")})
    assert given.with_key().orchestrator_key.get_secret_value() == "po_given"
    assert TaskSettings().with_key().orchestrator_key.get_secret_value() == ""


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = TaskSettings(PIXELTOLL_ORCHESTRATOR_KEY_FILE=tmp_path / "none")

    with pytest.raises(NotRegistered, match=r"PIXELTOLL_ORCHESTRATOR_KEY_FILE: .*none cannot be"):
        settings.with_key()


def test_a_data_folder_tells_only_what_the_environment_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"PIXELTOLL_ORCHESTRATOR_KEY": "po_demo", "S3_BUCKET": "demo", "REDIS_URL": "redis://x"}
    environment = {"PIXELTOLL_ORCHESTRATOR_KEY": "po_north", "S3_BUCKET": ""}
    monkeypatch.setattr(os, "environ", environment)

    adopt(told)

    assert environment == {**told, "PIXELTOLL_ORCHESTRATOR_KEY": "po_north"}


def test_flower_does_not_start_for_everybody(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)

    assert "FLOWER_BASIC_AUTH" in operator.complaint("flower")


def test_bootstrap_needs_to_know_what_to_offer(operator: Operator, tmp_path: Path) -> None:
    said = operator.complaint("bootstrap", "--keys", str(tmp_path))

    assert "PIXELTOLL_CATALOG" in said


def test_demo_models_are_copied_whole_and_only_once(operator: Operator, tmp_path: Path) -> None:
    target = tmp_path / "models"

    operator.run("models", "copy-demo", str(target), "--keep")
    copied = catalog.load(target / "catalog.toml")
    (target / "catalog.toml").write_text("# of the operator's own\n")
    operator.run("models", "copy-demo", str(target), "--keep")

    shipped = [path for path in catalog.DEMO.parent.rglob("*") if path.is_file()]
    assert len([path for path in target.rglob("*") if path.is_file()]) == len(shipped)
    assert Path(copied.get("pixeltoll/shapes").source) == target / "shapes"
    assert (target / "catalog.toml").read_text() == "# of the operator's own\n"


def test_demo_models_go_into_folders_only(operator: Operator, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("mine")

    assert f"{taken} cannot be written" in operator.complaint("models", "copy-demo", str(taken))
    assert taken.read_text() == "mine"
