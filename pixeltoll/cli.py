"""The `pixeltoll` command: a whole stack, and everything that is done to one.

It lists the commands. Each is in a module of `pixeltoll.commands`, which is imported when it is
asked for, so that none waits for what the others need.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pixeltoll.lazy import LazyCommand

# By module, each command or group in it and what `pixeltoll --help` says of it.
COMMANDS = {
    "stacks": {
        "up": "Start a whole stack and keep it running until Ctrl-C.",
        "demo": "Start a stack, make two pictures through it, show what they cost, and stop it.",
    },
    "processes": {
        "api": "Serve the API, on the servers that the environment names or else the data "
        "folder's.",
        "worker": "Run jobs until told to stop: one process for each GPU.",
        "scheduler": "Ring for forgotten jobs, take back lost ones, expire overdue ones, tell of "
        "the ends of jobs.",
        "flower": "Watch the queues in a browser. FLOWER_BASIC_AUTH says who may: user:password.",
    },
    "schema": {"db": "The database's schema."},
    "jobs": {
        "submit": "Draw a picture: show its price, ask, submit, wait, save.",
        "jobs": "A gateway's own jobs.",
    },
    "first": {
        "bootstrap": "Make the bucket, and a demo gateway and orchestrator for PIXELTOLL_CATALOG's "
        "models.",
    },
    "gateways": {
        "gateway": "Who pays.",
        "key": "API keys of gateways.",
        "balance": "Show what a gateway can spend, and what is held for its open jobs.",
    },
    "orchestrators": {"orchestrator": "Who runs GPUs and sets prices."},
    "offers": {"offer": "What orchestrators serve, and at what price."},
    "limits": {"limit": "The most that a gateway pays."},
    "models": {"models": "The models that there are."},
    "money": {
        "top-up": "Add funds to a gateway.",
        "refund": "Give back a part of what a job was charged, or all of it.",
    },
    "rates": {"rates": "What currencies are worth in each other."},
    "budgets": {"budget": "What may be spent in a day or a month."},
    "payouts": {"payout": "Paying orchestrators what they are owed."},
    "reports": {"report": "The books, as the SQL views show them."},
    "invoices": {
        "statement": "Show what moved a gateway's available balance, newest first: above zero came "
        "in.",
        "invoice": "Show what a gateway owes for a month: a line for each price, refunds below "
        "zero.",
    },
    "audit": {"ledger": "The books themselves."},
    "webhooks": {"webhook": "Who is told of the ends of jobs."},
    "draining": {
        "workers": "List the workers: live, draining, drained, or silent; and how many jobs each "
        "runs.",
        "drain": "Have workers take no more jobs, and wait until they have none.",
    },
    "doctor": {
        "doctor": "Look at database, migrations, broker, storage, GPU, versions and clock, and say "
        "what to do.",
    },
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def pixeltoll() -> None:
    """Image generation jobs, priced by the pixel."""


def program() -> TyperGroup:
    """Return the command, with all those that it has."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)  # noqa: S101  an app with a callback
    for command in _listed():
        root.add_command(command)
    return root


def _listed() -> Iterator[LazyCommand]:
    for module, commands in COMMANDS.items():
        for name, summary in commands.items():
            yield LazyCommand(name, f"pixeltoll.commands.{module}", summary)


def main() -> None:
    """Run the command. What an operator can mend is told in one message, and status 1."""
    try:
        program()()
    except Exception as error:
        # Here and not above: to know every error there is takes as long as a short command.
        from pixeltoll import complaints
        from pixeltoll.console import complain
        from pixeltoll.exits import Exit

        said = complaints.words(error)
        if said is None:
            raise
        complain(f"pixeltoll: {said}")
        sys.exit(Exit.FAILED)
