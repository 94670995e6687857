"""Orchestrators' keys: whose a worker is, and what no key opens."""

from __future__ import annotations

import pytest

from tasks import registration
from tasks.errors import NotRegistered, UnknownOrchestratorKey
from tests.stage import OWNER, Stage


def make(stage: Stage, name: str = "rack 1") -> tuple[str, str]:
    with stage.sessions.begin() as session:
        row, key = registration.create_key(session, stage.orchestrator_id, name)
        return row.id, key


def owner_of(stage: Stage, key: str) -> str:
    with stage.sessions.begin() as session:
        return registration.authenticate(session, key).name


def test_a_key_names_its_orchestrator_and_is_stored_as_a_hash(stage: Stage) -> None:
    key_id, key = make(stage)
    assert key.startswith(f"po_{key_id}_")
    assert owner_of(stage, key) == OWNER
    stored = str(stage.scalar("SELECT json_agg(orchestrator_keys) FROM orchestrator_keys"))
    assert key.split("_")[2][:43] not in stored


def test_a_revoked_key_is_listed_and_opens_nothing(stage: Stage) -> None:
    (old_id, old), (new_id, new) = make(stage, "old"), make(stage, "new")
    for _ in range(2):
        with stage.sessions.begin() as session:
            row = registration.revoke_key(session, stage.orchestrator_id, old_id)
            revoked_at = row.revoked_at
    with stage.sessions.begin() as session:
        listed = registration.list_keys(session, stage.orchestrator_id)
        # The market's own was made before these.
        assert [(one.id, one.revoked_at) for one in listed[:2]] == [
            (new_id, None),
            (old_id, revoked_at),
        ]
    assert owner_of(stage, new) == OWNER
    with pytest.raises(NotRegistered, match="unknown or revoked"):
        owner_of(stage, old)


def test_what_is_no_key_says_what_to_do(stage: Stage) -> None:
    _, key = make(stage)
    unknown = key.replace(key[3:15], "0" * 12)
    for wrong in ("", "nonsense", key[:-1], f"px{key[2:]}", unknown, "po_é"):
        with pytest.raises(NotRegistered, match="PIXELTOLL_ORCHESTRATOR_KEY"):
            owner_of(stage, wrong)


def test_a_key_is_revoked_by_its_own_orchestrator_only(stage: Stage) -> None:
    key_id, key = make(stage)
    with stage.sessions.begin() as session:
        for owner, named in ((stage.gateway_id, key_id), (stage.orchestrator_id, "nokey")):
            with pytest.raises(UnknownOrchestratorKey, match=named):
                registration.revoke_key(session, owner, named)
    assert owner_of(stage, key) == OWNER
