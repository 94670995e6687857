"""The commands of a gateway's own: submitting a job, and looking at those that there are.

They speak HTTP, with the key of a gateway, and need no database.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixeltoll.client import Client, Facts, body_of, price_bound
from pixeltoll.console import bars, complain, say, show, show_all, tell
from pixeltoll.errors import BadArgument
from pixeltoll.exits import Exit
from pixeltoll.options import DEFAULT_DIR, AsJson, DataDir, Limit
from pixeltoll.settings import ClientSettings
from pixeltoll.state import Connection

jobs_app = typer.Typer(no_args_is_help=True, help="A gateway's own jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Folder = Annotated[Path, typer.Option("--output", help="Folder for the pictures.")]
_COLUMNS = ("id", "state", "pipeline", "model_id", "progress", "amount", "currency", "created_at")
_SHOWN = (
    *("id", "state", "pipeline", "model_id", "progress", "phase", "queue_position", "amount"),
    *("charged", "currency", "orchestrator", "attempt", "created_at", "started_at", "finished_at"),
    *("deadline", "notice"),
)
_PAGE = 100
# Of models, the best first.
_READINESS = ("warm", "on_demand", "unavailable")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command("submit")(submit)
    app.add_typer(jobs_app, name="jobs")


def _client(data_dir: Path) -> Client:
    """Return a client of the API that the environment names, or else of the data folder's stack.

    Raises:
        NotRunning: Neither is there.
        BadArgument: The environment has one of the two only, or a key that is none.
    """
    given = ClientSettings()
    key = given.api_key.get_secret_value()
    if not key.isascii() or not key.isprintable():
        raise BadArgument("PIXELTOLL_API_KEY: is not a key, which begins with px_.")
    if given.url and key:
        return Client(given.url, key)
    if given.url or key:
        raise BadArgument("PIXELTOLL_URL and PIXELTOLL_API_KEY: set both, or neither.")
    running = Connection.read(data_dir)
    return Client(running.url, running.api_key)


# --- submitting -------------------------------------------------------------------------------


def submit(  # noqa: PLR0913, PLR0917  what a job can say
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Annotated[
        str | None, typer.Option(help="Model to draw with; one that is ready, if not given.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Picture to begin with, a file or a link: makes it image-to-image."),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    images: Annotated[int | None, typer.Option(help="How many pictures.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps each takes.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How much the prompt counts.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the input picture may change, 0 to 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same.")] = None,
    max_price: Annotated[
        str | None, typer.Option(help="The most to pay for a pixel; a dearer job is refused.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the pictures, and save them.")] = True,
    output: Folder = Path(),
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """Draw a picture: show its price, ask, submit, wait, save.

    PIXELTOLL_URL and PIXELTOLL_API_KEY say which API and who pays; without them, it is the data
    folder's stack and its demo gateway. What is paid is what was shown, or less.
    """
    if as_json and not yes:
        raise BadArgument("--json needs --yes: nobody can be asked.")
    order: dict[str, object] = {
        "pipeline": "text-to-image" if image is None else "image-to-image",
        "model_id": model,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "num_images_per_prompt": images,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "strength": strength,
        "seed": seed,
        "max_price": max_price,
    }
    with _client(data_dir) as client:
        order["model_id"] = model or _first_model(client, str(order["pipeline"]))
        quote = client.post("/v1/quotes", **body_of(order, image))
        if not as_json:
            _show_quote(quote)
        if not yes:
            typer.confirm("Submit it?", abort=True, err=True)
        bound = {**order, "max_price": price_bound(quote)}
        job = client.post("/v1/jobs", **body_of(bound, image))
        if wait:
            _finish(client, job, output, as_json=as_json)
        else:
            tell(f"Job {job['id']} is {job['state']}.", job, as_json=as_json)


def _first_model(client: Client, pipeline: str) -> str:
    """Return the model that can be had soonest.

    Raises:
        BadArgument: There is none.
    """
    found: list[Facts] = client.get("/v1/models")["data"]
    fitting = [one for one in found if one["pipeline"] == pipeline]
    if not fitting:
        raise BadArgument(f"model: nobody offers one for {pipeline} here.")
    return str(min(fitting, key=lambda one: _READINESS.index(one["state"]))["model_id"])


def _show_quote(quote: Facts) -> None:
    drawn = quote["parameters"]
    count = drawn["num_images_per_prompt"]
    say(
        f"{count} picture{'' if count == 1 else 's'} of {drawn['width']} x {drawn['height']} by "
        f"{quote['model_id']}, from {quote['orchestrator']}: "
        f"{quote['amount']} {quote['currency']} for {quote['units']} pixels."
    )
    if quote["notice"]:
        complain(quote["notice"])


def _finish(client: Client, job: Facts, output: Path, *, as_json: bool) -> None:
    """Follow a job to its end, and save what there is."""
    try:
        with bars(as_json=as_json) as shown:
            bar = shown.add_task(job["state"], total=1.0)
            for job in client.watch(job):  # noqa: B020, PLR1704  the same job, later
                shown.update(bar, completed=job["progress"], description=job["state"])
    except KeyboardInterrupt:
        complain(
            f"Job {job['id']} goes on. `pixeltoll jobs wait {job['id']}` saves its pictures, "
            f"`pixeltoll jobs cancel {job['id']}` ends it."
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    saved = client.save(job, output)
    if as_json:
        show({**job, "files": saved}, as_json=True)
    else:
        for path in saved:
            say(f"saved {path}")
        say(f"charged {job['charged'] or 0} {job['currency']}")
    if job["error"]:
        complain(f"Job {job['id']} {job['state']}: {job['error']['message']}")
    if not saved:
        raise typer.Exit(Exit.NO_PICTURES)


# --- looking ----------------------------------------------------------------------------------


@jobs_app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    limit: Limit = 20,
    data_dir: DataDir = DEFAULT_DIR,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    found: list[Facts] = []
    cursor: str | None = None
    with _client(data_dir) as client:
        while len(found) < limit:
            size = min(_PAGE, limit - len(found))
            page = client.get("/v1/jobs", state=state, model_id=model, limit=size, cursor=cursor)
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    rows = [{name: job[name] for name in _COLUMNS} for job in found]
    show_all(_COLUMNS, found if as_json else rows, as_json=as_json)


@jobs_app.command("show")
def show_job(job: JobId, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show a job."""
    with _client(data_dir) as client:
        found = client.get(f"/v1/jobs/{job}")
    if as_json:
        show(found, as_json=True)
        return
    facts = {name: found[name] for name in _SHOWN if found[name] is not None}
    if found["error"]:
        facts["error"] = f"{found['error']['code']}: {found['error']['message']}"
    for number, picture in enumerate(found["outputs"]):
        facts[f"picture {number}"] = picture["url"]
    show(facts, as_json=False)


@jobs_app.command("wait")
def wait_for_job(
    job: JobId, output: Folder = Path(), data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False
) -> None:
    """Wait for a job to end, and save its pictures."""
    with _client(data_dir) as client:
        _finish(client, client.get(f"/v1/jobs/{job}"), output, as_json=as_json)


@jobs_app.command("cancel")
def cancel_job(job: JobId, data_dir: DataDir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Cancel a queued or running job. Its funds come back."""
    with _client(data_dir) as client:
        found = client.post(f"/v1/jobs/{job}/cancel")
    tell(f"Job {found['id']} is {found['state']}.", found, as_json=as_json)
