"""Tasks of the AWS API from end to end: pictures in their folder, and a message that they are."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import select, text
from standardwebhooks.webhooks import Webhook as Verifier

from api import messages
from tasks import claims, jobs, names, stems, webhooks
from tasks.delivery import Courier
from tasks.errors import InferenceError, StorageError
from tasks.outbound import Outbound
from tasks.places import Rules
from tasks.scheduler import Sweeper
from tasks.storage import ObjectStore, StoredKey
from tasks.tables import Job, ResultStem, Webhook
from tests.fakes import EXPLODES, FakeEngine, PickyEngine
from tests.integration.api.test_aws import SAMPLES, V2, metadata, post
from tests.integration.api.working import working
from tests.integration.api.world import LANCZOS, MODEL, World, png
from tests.stage import eventually
from tests.web import Handler, Visit, Web, serving

TOPIC = "arn:aws:sns:eu-west-1:123456789012:done"


def answer(handler: Handler, visit: Visit) -> None:
    pictures = {"/cat.png": (300, 200), "/small.png": (128, 96)}
    if visit.path in pictures:
        handler.give(200, png(*pictures[visit.path]), Content_Type="image/png")
    else:
        handler.give(204)


@dataclass(frozen=True)
class Studio:
    """A gateway with a webhook, an installation with a topic, and who tells them."""

    world: World
    web: Web
    webhook: Webhook
    published: list[str]

    def run(self, path: str, body: Any, engine: FakeEngine) -> UUID:
        """Submit a task and run it to its end."""
        response = post(self.world, path, body)
        assert response.status_code == 200, response.text
        job_id = UUID(response.json["job_id"])
        with working(self.world, engine, (MODEL, LANCZOS)):
            eventually(lambda: self.job(job_id).finished_at)
        return job_id

    def job(self, job_id: UUID) -> Job:
        with self.world.sessions() as session:
            return session.get_one(Job, job_id)

    def told(self) -> Any:
        """Deliver what is due; returns the last message, which the receiver's library verifies."""
        rules = Rules(trusted=frozenset({f"127.0.0.1:{self.web.port}"}))
        settings = self.world.runtime.task_settings
        render = messages.renderer("https://pixels.example")
        post_office = Outbound(rules)
        Courier(
            self.world.sessions, post_office, self.publish, render, settings, self.world.store
        ).deliver()
        visit = next(one for one in reversed(self.web.visits) if one.path == "/hook")
        found = Verifier(self.webhook.secret or "").verify(visit.body, dict(visit.headers))
        assert json.loads(self.published[-1]) == found
        return found

    def publish(self, topic: str, message: str, _: object) -> None:
        assert topic == TOPIC
        self.published.append(message)

    def get(self, url: str) -> bytes:
        bucket = self.world.runtime.task_settings.s3_bucket
        return self.world.store.get(url.removeprefix(f"s3://{bucket}/"))

    def stems(self, job_id: UUID) -> list[str]:
        """What the results of a job's attempts are called, in their order."""
        with self.world.sessions() as session:
            mine = select(ResultStem.stem).where(ResultStem.job_id == job_id)
            return list(session.scalars(mine.order_by(ResultStem.attempt)))

    def keys(self) -> list[str]:
        return sorted(one.key for one in self.world.store.list("tasks/"))

    def folder(self, name: str) -> str:
        return f"tasks/{self.world.gateway_id}/{name}"


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving(answer) as found:
        yield found


@pytest.fixture(scope="module")
def studio(shared_world: World, web: Web) -> Studio:
    trusted = f"127.0.0.1:{web.port}"
    shared_world.sell_upscaling()
    settings = shared_world.runtime.task_settings.model_copy(
        update={"link_hosts": trusted, "retry_delay_s": 0}
    )
    runtime = replace(shared_world.runtime, task_settings=settings)
    shared_world.app.extensions["pixeltoll"] = runtime
    world = replace(shared_world, runtime=runtime)
    with world.sessions.begin() as session:
        rules = Rules(trusted=frozenset({trusted}))
        hook = webhooks.create(session, world.gateway_id, web.url("/hook"), (), rules)
        webhooks.listen_on(session, [TOPIC])
    return Studio(world, web, hook, [])


@pytest.fixture(autouse=True)
def _empty(studio: Studio) -> Iterator[None]:
    yield
    if keys := studio.keys():
        studio.world.store.delete(keys)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_published_is_drawn_stored_and_told(studio: Studio, name: str) -> None:
    sample = SAMPLES[name]
    job_id = studio.run(sample.path, sample.at(studio.web.url("/small.png")), FakeEngine())
    message = studio.told()

    [stem] = studio.stems(job_id)
    task_id = sample.folder.rpartition("/")[2]
    assert stem.startswith(studio.folder(f"{sample.folder}/{task_id}-"))
    assert len(stem.rpartition("-")[2]) == 4
    place = f"s3://{studio.world.runtime.task_settings.s3_bucket}/{stem}"
    assert message == {
        "runtime": "sdruntime" if sample.path == V2 else "legacy",
        "id": task_id,
        "result": True,
        "status": "completed",
        "image_url": [f"{place}-1.png"],
        "output_url": f"{place}.out",
        "context": "" if sample.path == V2 else {},
        "job_id": str(job_id),
        "state": "succeeded",
        "error": None,
    }
    picture = Image.open(io.BytesIO(studio.get(message["image_url"][0])))
    assert (picture.format, picture.size) == ("PNG", sample.size)
    spec = studio.world.runtime.catalog.get(studio.job(job_id).model_id)
    assert picture.info["model_hash"] == names.weights_hash(spec)
    assert studio.keys() == [f"{stem}-1.png", f"{stem}.out"]


def test_pictures_are_numbered_in_the_order_of_their_seeds_and_the_manifest_says_so(
    studio: Studio,
) -> None:
    asked = metadata(context={"order": 17}, prefix="a/b/")
    asked["task"]["content"].update(batch_size=5, n_iter=2, seed=7, width=64, height=64)
    studio.run(V2, asked, FakeEngine())
    message = studio.told()

    assert message["context"] == {"order": 17}
    assert [url.rpartition("-")[2] for url in message["image_url"]] == [
        f"{number}.png" for number in range(1, 11)
    ]
    seeds = [Image.open(io.BytesIO(studio.get(url))).info["seed"] for url in message["image_url"]]
    assert seeds == [str(seed) for seed in range(7, 17)]
    manifest = json.loads(studio.get(message["output_url"]))
    assert (manifest["images"], manifest["info"]) == ([""], "")
    parameters = manifest["parameters"]
    assert parameters["image_seed"] == ",".join(seeds)
    assert (parameters["id_task"], parameters["error_msg"]) == ("t-1", "")
    assert (parameters["steps"], parameters["sd_model_checkpoint"]) == (16, MODEL)


def test_a_task_that_fails_is_told_with_its_error_which_its_folder_has_too(studio: Studio) -> None:
    asked = metadata()
    asked["task"]["content"]["prompt"] = EXPLODES
    job_id = studio.run(V2, asked, FakeEngine())
    message = studio.told()
    assert (message["result"], message["status"], message["image_url"]) == (False, "failed", [])
    assert message["error"]["code"] == "internal_error"
    assert message["job_id"] == str(job_id)
    [manifest] = studio.keys()
    assert message["output_url"].endswith(manifest)
    assert json.loads(studio.get(message["output_url"])) == {
        "images": [""],
        "parameters": {
            "id_task": "t-1",
            "status": 0,
            "error_msg": message["error"]["message"],
            "reason": {"code": "internal_error", "state": "failed"},
        },
        "info": "",
    }


def test_a_task_that_was_canceled_before_it_ran_has_a_manifest_when_it_is_swept(
    studio: Studio,
) -> None:
    job_id = UUID(post(studio.world, V2, metadata()).json["job_id"])
    studio.world.change(lambda session: jobs.cancel(session, studio.world.gateway_id, job_id))
    assert studio.keys() == []
    assert not studio.job(job_id).swept
    sweep(studio, job_id)
    [manifest] = studio.keys()
    said = json.loads(studio.world.store.get(manifest))["parameters"]
    assert (said["error_msg"], said["reason"]["state"]) == ("The task was canceled.", "canceled")


def test_the_same_task_again_overwrites_nothing(studio: Studio) -> None:
    for _ in range(2):
        studio.run(V2, metadata(), FakeEngine())
    assert len(studio.keys()) == 4


@pytest.mark.parametrize("prompt", ["a fox", EXPLODES])
def test_what_is_taken_is_not_drawn(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    """By another task, whose results may not be there yet, or by what only the store knows."""
    name = f"-{prompt.replace(' ', '-')}"
    place = studio.folder(f"output/t{name}/t{name}-")
    monkeypatch.setattr("tasks.stems.secrets", SimpleNamespace(token_hex=lambda _: "a" * 64))
    asked = metadata(id=f"t{name}")
    first = studio.run(V2, asked, FakeEngine())
    assert studio.stems(first) == [f"{place}aaaa"]
    studio.world.store.delete(studio.keys())
    monkeypatch.setattr("tasks.stems.secrets", SimpleNamespace(token_hex=iter_of("aaaa bbbb cccc")))
    theirs = f"{place}bbbb-7.png"
    studio.world.store.put(theirs, b"of an older database", "image/png")

    asked["task"]["content"]["prompt"] = prompt
    second = studio.run(V2, asked, FakeEngine())

    assert studio.told()["output_url"].endswith(f"{place}cccc.out")
    assert studio.stems(second) == [f"{place}cccc"]
    assert studio.world.store.get(theirs) == b"of an older database"
    pictures = [f"{place}cccc-1.png"] if prompt != EXPLODES else []
    assert [one.key for one in studio.world.store.list(place)] == [
        theirs,
        *pictures,
        f"{place}cccc.out",
    ]


def iter_of(digits: str) -> Callable[[int], str]:
    left = iter(digits.split())
    return lambda _: next(left)


def test_a_folder_that_is_all_but_full_has_longer_names(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.stems.secrets", SimpleNamespace(token_hex=lambda _: "f" * 64))
    ids = [studio.run(V2, metadata(id="full"), FakeEngine()) for _ in range(2)]
    drawn = [stem for one in ids for stem in studio.stems(one)]
    place = studio.folder("output/full/full-")
    assert drawn == [f"{place}ffff", f"{place}fffff"]
    # Once drawn, it stays.
    transact = stems.through(studio.world.sessions)
    assert stems.of(transact, studio.world.store, studio.job(ids[0])) == drawn[0]


class ForgetfulStore(ObjectStore):
    """A real store that does not know at first what it has."""

    asked = 0

    def list(self, prefix: str, older_than: datetime | None = None) -> Iterator[StoredKey]:
        self.asked += 1
        if self.asked == 1:
            raise StorageError("The object store did not answer.")
        return super().list(prefix, older_than)


def test_a_task_whose_name_cannot_be_drawn_runs_again(studio: Studio) -> None:
    settings = studio.world.runtime.task_settings
    store = ForgetfulStore.from_settings(settings)
    runtime = replace(studio.world.runtime, open_store=lambda: store)
    job_id = replace(studio, world=replace(studio.world, runtime=runtime)).run(
        V2, metadata(), FakeEngine()
    )
    job = studio.job(job_id)
    assert (job.state, job.attempt, store.asked) == ("succeeded", 2, 2)
    [stem] = studio.stems(job_id)
    assert studio.keys() == [f"{stem}-1.png", f"{stem}.out"]


def sweep(studio: Studio, *job_ids: UUID) -> None:
    """Sweep these jobs, which ended long ago."""
    again = text(
        "UPDATE jobs SET swept = NOT (id = ANY(:ids)), finished_at = now() - interval '1 day'"
        " WHERE finished_at IS NOT NULL"
    )
    studio.world.change(lambda session: session.execute(again, {"ids": list(job_ids)}))
    settings = studio.world.runtime.task_settings
    Sweeper(studio.world.sessions, studio.world.store, lambda _: None, settings).clear()


def test_what_a_lost_attempt_left_goes_and_nothing_of_others_does(studio: Studio) -> None:
    first = studio.run(V2, metadata(), FakeEngine())
    with studio.world.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET attempt = 2 WHERE id = :id"), {"id": first})
    again = stems.of(stems.through(studio.world.sessions), studio.world.store, studio.job(first))
    [lost, winner] = studio.stems(first)
    assert winner == again
    studio.run(V2, metadata(), FakeEngine())
    kept = studio.keys()
    for key in (f"{winner}.out", f"{winner}-2.png"):
        studio.world.store.put(key, b"late", "image/png")
    sweep(studio, first)
    # The first attempt's manifest went with it; its picture is an output, and stays.
    assert studio.keys() == sorted({*kept, f"{winner}.out"} - {f"{lost}.out"})


def test_what_had_its_time_goes_with_its_manifest(studio: Studio) -> None:
    studio.run(V2, metadata(), FakeEngine())
    settings = studio.world.runtime.task_settings.model_copy(update={"keep_results_s": 1})
    studio.world.change(
        lambda session: session.execute(
            text("UPDATE jobs SET finished_at = now() - interval '1 day'")
        )
    )
    sweeper = Sweeper(studio.world.sessions, studio.world.store, lambda _: None, settings)
    sweeper.delete_outdated()
    assert studio.keys() == []


@pytest.mark.parametrize(
    ("name", "ending", "format_"),
    [("jpg", ".jpg", "JPEG"), ("webp", ".webp", "WEBP"), ("gif", ".gif", "GIF")],
)
def test_results_in_other_formats_are_called_by_their_content(
    studio: Studio, name: str, ending: str, format_: str
) -> None:
    asked = metadata()
    asked["task"]["content"].update(
        batch_size=2, width=64, height=64, override_settings={"samples_format": name}
    )
    job_id = studio.run(V2, asked, FakeEngine())
    urls = studio.told()["image_url"]
    assert [url.rpartition("-")[2] for url in urls] == [f"1{ending}", f"2{ending}"]
    assert [Image.open(io.BytesIO(studio.get(url))).format for url in urls] == [format_] * 2
    outputs = studio.world.client().get(f"/v1/jobs/{job_id}").json["outputs"]
    assert {one["content_type"] for one in outputs} == {f"image/{format_.lower()}"}
    streamed = studio.world.client("").get(outputs[0]["url"])
    assert streamed.headers["Content-Type"] == f"image/{format_.lower()}"


def test_a_picture_is_made_larger(studio: Studio) -> None:
    asked = metadata(tasktype="extra-single-image")
    asked["task"]["content"] = {
        "image": studio.web.url("/cat.png"),
        "upscaler_1": "Lanczos",
        "upscaling_resize": 1.5,
        "override_settings": {"samples_format": "webp"},
    }
    job = studio.job(studio.run(V2, asked, FakeEngine()))
    [url] = studio.told()["image_url"]
    made = Image.open(io.BytesIO(studio.get(url)))
    assert (made.size, made.format, url.endswith("-1.webp")) == ((450, 300), "WEBP", True)
    assert (job.pipeline, job.model_id, job.units) == ("upscale", LANCZOS, 450 * 300)


def test_a_partial_result_keeps_the_numbers_of_its_pictures(studio: Studio) -> None:
    asked = metadata()
    asked["task"]["content"].update(batch_size=3, seed=5, width=64, height=64)
    settings = studio.world.runtime.task_settings.model_copy(update={"max_attempts": 1})
    world = replace(studio.world, runtime=replace(studio.world.runtime, task_settings=settings))
    replace(studio, world=world).run(V2, asked, PickyEngine(InferenceError("not finite"), 6))
    message = studio.told()
    assert (message["result"], message["error"]["code"]) == (True, claims.PARTIAL_RESULT)
    assert [url.rpartition("-")[2] for url in message["image_url"]] == ["1.png", "3.png"]
