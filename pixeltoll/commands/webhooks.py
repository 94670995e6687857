"""The commands about webhooks: who is told of the ends of a gateway's jobs, and what was told."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from ledger import accounts
from pixeltoll.commands.common import GatewayName, books
from pixeltoll.console import show, show_all, tell
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, Limit
from tasks import webhooks
from tasks.places import Rules
from tasks.settings import TaskSettings
from tasks.tables import Webhook

webhook_app = typer.Typer(no_args_is_help=True, help="Who is told of the ends of jobs.")

WebhookId = Annotated[UUID, typer.Argument(metavar="WEBHOOK", help="The webhook's id.")]
_COLUMNS = ("id", "url", "events", "created_at", "failing_since", "disabled_at", "disabled_why")
_LOG = (
    *("id", "job_id", "event", "state", "attempts", "status", "error", "created_at"),
    *("tried_at", "next_at"),
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.add_typer(webhook_app, name="webhook")


@webhook_app.command("create")
def create_webhook(
    gateway: GatewayName,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to post to.")],
    event: Annotated[
        list[str] | None, typer.Option(help="Tell of this only; may be given again.")
    ] = None,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Tell a URL of the ends of a gateway's jobs. Its secret is shown now and never again."""
    settings = TaskSettings()
    rules = Rules.written(settings.link_ports, settings.link_hosts)
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        row = webhooks.create(session, owner.id, url, event or (), rules)
        show({**_facts(row), "secret": row.secret}, as_json=as_json)


@webhook_app.command("list")
def list_webhooks(
    gateway: GatewayName, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """List a gateway's webhooks, the newest first."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        rows = [_facts(row) for row in webhooks.list_webhooks(session, owner.id)]
    show_all(_COLUMNS, rows, as_json=as_json)


@webhook_app.command("delete")
def delete_webhook(
    gateway: GatewayName,
    webhook: WebhookId,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Delete a webhook and its log: it is told nothing any more, not even what is pending."""
    with books(data_dir) as session:
        webhooks.remove(session, accounts.find_gateway(session, gateway).id, webhook)
    facts = {"id": webhook, "gateway": gateway, "deleted": True}
    tell(f"Webhook {webhook} of {gateway} is deleted.", facts, as_json=as_json)


@webhook_app.command("rotate")
def rotate_secret(
    gateway: GatewayName,
    webhook: WebhookId,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Give a webhook a new secret. For 24 hours, the one before signs as well."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        row = webhooks.rotate(session, owner.id, webhook)
        show({**_facts(row), "secret": row.secret}, as_json=as_json)


@webhook_app.command("enable")
def enable_webhook(
    gateway: GatewayName,
    webhook: WebhookId,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Tell a webhook again that was disabled because it failed."""
    with books(data_dir) as session:
        owner = accounts.find_gateway(session, gateway)
        show(_facts(webhooks.enable(session, owner.id, webhook)), as_json=as_json)


@webhook_app.command("deliveries")
def list_deliveries(
    gateway: GatewayName,
    webhook: WebhookId,
    limit: Limit = 50,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """List what a webhook was told, or is yet to be told, newest first."""
    with books(data_dir) as session:
        owned = webhooks.find(session, accounts.find_gateway(session, gateway).id, webhook)
        found = webhooks.deliveries(session, owned.id, limit=limit)
        rows = [{column: getattr(row, column) for column in _LOG} for row in found]
    show_all(_LOG, rows, as_json=as_json)


@webhook_app.command("replay")
def replay_delivery(
    gateway: GatewayName,
    webhook: WebhookId,
    delivery: Annotated[int, typer.Argument(metavar="DELIVERY", help="Its id in the log.")],
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Deliver once more, whatever became of it before. A running scheduler does it."""
    with books(data_dir) as session:
        owned = webhooks.find(session, accounts.find_gateway(session, gateway).id, webhook)
        row = webhooks.replay(session, owned.id, delivery)
        facts = {"id": row.id, "event": row.event, "job_id": row.job_id, "state": row.state}
        said = f"Delivery {row.id}, {row.event} of job {row.job_id}, is due again."
    tell(said, facts, as_json=as_json)


def _facts(row: Webhook) -> dict[str, object]:
    return {"url": row.target, **{name: getattr(row, name) for name in _COLUMNS if name != "url"}}
