"""Who gets in: every route with no key, a wrong one, a revoked one, and another gateway's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api import auth
from api.auth import KEPT_S, Keyring
from api.errors import NotAuthenticated
from api.openapi import described
from api.tables import ApiKey
from tasks import keys
from tests.integration.api.conftest import MakeWorld
from tests.integration.api.world import ADMIN_KEY, GOOD, World, problem

UNKNOWN = "00000000-0000-0000-0000-000000000000"
# `/metrics` asks for a key of its own, or is not there: its tests say so.
PUBLIC = {
    "/metrics",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/docs/start.js",
    "/stream/x/x",
}


def routes(world: World) -> list[tuple[str, str, str]]:
    """Every (method, path, security), with some value for each parameter of the path."""
    found: list[tuple[str, str, str]] = []
    for rule in world.app.url_map.iter_rules():
        path = re.sub(r"<any\('([^']+)'.*>", r"\1", rule.rule)
        path = re.sub(r"<int:[^<>]+>", "1", path)
        path = re.sub(r"<[^<>]+>", "x", path)
        security = described(world.app.view_functions[rule.endpoint]).security
        methods = sorted((rule.methods or set()) & {"GET", "POST", "PUT", "DELETE"})
        found += [(method, path, security) for method in methods]
    return found


def call(world: World, method: str, path: str, key: str) -> Any:
    return world.client(key).open(path, method=method, json=GOOD if method != "GET" else None)


def test_only_what_is_meant_to_be_public_is(shared_world: World) -> None:
    public = {path for _, path, security in routes(shared_world) if security == "none"}
    assert public == {*PUBLIC, "/docs/swagger-ui.css"}
    assert len(routes(shared_world)) > 25


def test_every_other_route_refuses_without_a_valid_key(
    shared_world: World, subtests: pytest.Subtests
) -> None:
    strangers = {
        "no key": "",
        "no such key": _well_formed_but_unknown(),
        "a typing error": shared_world.key[:-1] + ("x" if shared_world.key[-1] != "x" else "y"),
        "a revoked key": shared_world.revoked_key,
        "nonsense": "nonsense",
        "odd characters": "px_é\u2603",
    }
    for method, path, security in routes(shared_world):
        if security == "none":
            continue
        wrong = {"the other kind": shared_world.key if security == "admin" else ADMIN_KEY}
        for name, key in {**strangers, **wrong}.items():
            with subtests.test(f"{method} {path} with {name}"):
                response = call(shared_world, method, path, key)
                # A dialect's body is its own; that it is documented, the client has checked.
                assert (response.status_code, response.json["code"]) == (401, "not_authenticated")
                scheme = "Basic" if security == "basic" else "Bearer"
                assert response.headers["WWW-Authenticate"].startswith(scheme)


def _well_formed_but_unknown() -> str:
    return keys.make().written("px")


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer ", "", "px_key"])
def test_other_schemes_are_no_keys(shared_world: World, header: str) -> None:
    response = shared_world.client("").get("/v1/balance", headers={"Authorization": header})
    problem(response, 401, "not_authenticated")


def test_the_scheme_is_read_in_any_case(shared_world: World) -> None:
    response = shared_world.client("").get(
        "/v1/balance", headers={"Authorization": f"bearer {shared_world.key}"}
    )
    assert response.status_code == 200


def test_another_gateways_job_is_not_there(shared_world: World) -> None:
    job = shared_world.submit()
    other = shared_world.client(shared_world.other_key)

    for response in (
        other.get(f"/v1/jobs/{job['id']}"),
        other.get(f"/v1/jobs/{job['id']}?wait=5"),
        other.post(f"/v1/jobs/{job['id']}/cancel"),
    ):
        theirs = problem(response, 404, "job_not_found")
        nobodys = problem(other.get(f"/v1/jobs/{UNKNOWN}"), 404, "job_not_found")
        assert {**theirs, "detail": "", "instance": ""} == {
            **nobodys,
            "detail": "",
            "instance": "",
        }
    assert shared_world.client().get(f"/v1/jobs/{job['id']}").json["state"] == "queued"


def test_a_key_is_revoked_at_once(world: World) -> None:
    assert world.client().get("/v1/balance").status_code == 200
    admin = world.client(ADMIN_KEY)
    key_id = world.key.split("_")[1]
    revoked = admin.delete(f"/v1/admin/gateways/first/keys/{key_id}")

    problem(world.client().get("/v1/balance"), 401, "not_authenticated")
    again = admin.delete(f"/v1/admin/gateways/first/keys/{key_id}")
    assert again.json["revoked_at"] == revoked.json["revoked_at"] is not None


def test_a_key_that_is_revoked_elsewhere_opens_for_a_second_at_most(world: World) -> None:
    now = 100.0
    keyring = Keyring(world.sessions, clock=lambda: now)
    header = f"Bearer {world.key}"
    caller = keyring.authenticate(header)
    with world.sessions.begin() as session:
        auth.revoke_key(session, caller.gateway_id, caller.api_key_id)
    now += KEPT_S - 0.001
    assert keyring.authenticate(header) == caller
    # From when it was asked for, however often it is used meanwhile.
    now += 0.001
    with pytest.raises(NotAuthenticated):
        keyring.authenticate(header)


def test_a_key_that_did_not_open_is_asked_for_again(world: World) -> None:
    keyring = Keyring(world.sessions, clock=lambda: 0.0)
    made = keys.make()
    header = f"Bearer {made.written('px')}"
    with pytest.raises(NotAuthenticated):
        keyring.authenticate(header)
    with world.sessions.begin() as session:
        gateway_id = keyring.authenticate(f"Bearer {world.key}").gateway_id
        session.add(
            ApiKey(id=made.id, gateway_id=gateway_id, name="new", secret_hash=made.secret_hash)
        )
    assert keyring.authenticate(header).api_key_id == made.id


def test_the_database_never_sees_a_secret(shared_world: World) -> None:
    secret = shared_world.key.split("_")[2]
    with shared_world.sessions() as session:
        rows = str(session.execute(text("SELECT * FROM api_keys")).all())
    assert shared_world.key.split("_")[1] in rows
    assert secret not in rows
    assert secret[:43] not in rows


def test_the_body_of_a_stranger_is_not_read(shared_world: World) -> None:
    response = shared_world.client("").post(
        "/v1/jobs", data=b"not json, and too large" * 100_000, content_type="text/plain"
    )
    problem(response, 401, "not_authenticated")


def test_without_an_admin_key_nobody_administers(make_world: MakeWorld) -> None:
    world = make_world(admin_key=SecretStr(""))
    for key in ("", world.key, ADMIN_KEY):
        body = problem(world.client(key).get("/v1/admin/gateways"), 403, "admin_disabled")
        assert "PIXELTOLL_ADMIN_KEY" in body["detail"]
