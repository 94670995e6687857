"""The commands about webhooks, against a real database."""

from __future__ import annotations

import pytest

from tests.integration.pixeltoll.helpers import Operator
from tests.stage import Stage

URL = "https://hooks.example.com/"


def test_a_webhook_lives_by_commands(operator: Operator, stage: Stage) -> None:
    made = operator.json("webhook", "create", "studio", URL, "--event", "job.canceled")
    assert made["secret"].startswith("whsec_")
    [row] = operator.rows("webhook", "list", "studio")
    assert (row["id"], row["url"], row["events"]) == (made["id"], URL, ["job.canceled"])
    assert "secret" not in row

    job = stage.submit()
    stage.cancel(job)
    [told] = operator.rows("webhook", "deliveries", "studio", made["id"])
    assert (told["job_id"], told["event"], told["state"]) == (
        str(job.id),
        "job.canceled",
        "pending",
    )
    stage.execute("UPDATE webhook_deliveries SET state = 'failed'")
    said = operator.run("webhook", "replay", "studio", made["id"], str(told["id"]))
    assert f"job.canceled of job {job.id}" in said
    [told] = operator.rows("webhook", "deliveries", "studio", made["id"])
    assert told["state"] == "pending"

    assert operator.json("webhook", "rotate", "studio", made["id"])["secret"] != made["secret"]
    stage.execute("UPDATE webhooks SET disabled_at = now(), disabled_why = 'It fails.'")
    assert operator.json("webhook", "enable", "studio", made["id"])["disabled_at"] is None
    assert "deleted" in operator.run("webhook", "delete", "studio", made["id"])
    assert operator.rows("webhook", "list", "studio") == []


@pytest.mark.usefixtures("stage")
def test_bad_input_names_what_is_wrong(operator: Operator) -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    for said, arguments in (
        ("url: ", ("create", "studio", "ftp://example.com/")),
        ("events: ", ("create", "studio", URL, "--event", "job.exploded")),
        ("no webhook", ("delete", "studio", nobody)),
        ("no webhook", ("deliveries", "studio", nobody)),
        ("nobody", ("list", "nobody")),
    ):
        assert said in operator.complaint("webhook", *arguments)
    made = operator.json("webhook", "create", "studio", URL)
    assert "no delivery 7" in operator.complaint("webhook", "replay", "studio", made["id"], "7")
