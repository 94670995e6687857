"""The published `webuiapi` client, unmodified: what it sends is understood, and what it is answered
it parses."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw
from sqlalchemy.orm import Session
from webuiapi import WebUIApi

from ledger import accounts, offers
from ledger.offers import LiveOffer
from ledger.tables import Offer
from tasks import names, workers
from tasks.engine.protocol import Variation
from tasks.finer import FirstPass
from tasks.jobs import Bell
from tests.fakes import FakeEngine, Gate
from tests.integration.api.working import served, working
from tests.integration.api.world import (
    CATALOG,
    LANCZOS,
    MODEL,
    ORCHESTRATOR,
    UNSOLD,
    UPSCALER,
    World,
)

TITLE = names.title(CATALOG.get(MODEL))
SMALL: dict[str, Any] = {"prompt": "a fox", "width": 64, "height": 64, "steps": 8}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def address(shared_world: World, engine: FakeEngine) -> Iterator[str]:
    shared_world.sell_upscaling()
    models = (MODEL, UPSCALER, LANCZOS)
    with working(shared_world, engine, models), served(shared_world) as address:
        yield f"{address}/sdapi/v1"


@pytest.fixture(scope="module")
def api(address: str, shared_world: World) -> WebUIApi:
    return WebUIApi(baseurl=address, username="anybody", password=shared_world.key)


def scene(width: int = 128, height: int = 96) -> Image.Image:
    picture = Image.new("RGB", (width, height), "navy")
    ImageDraw.Draw(picture).ellipse((8, 8, 40, 40), fill="orange")
    return picture


def test_txt2img(api: WebUIApi, engine: FakeEngine) -> None:
    result = api.txt2img(
        **SMALL, negative_prompt="ugly", seed=5, batch_size=2, n_iter=2, sampler_name="DPM++ 2M"
    )

    assert [one.size for one in result.images] == [(64, 64)] * 4
    assert result.info["all_seeds"] == [5, 6, 7, 8]
    assert (result.info["seed"], result.info["steps"], result.info["cfg_scale"]) == (5, 8, 7.0)
    assert (result.info["sampler_name"], result.info["index_of_first_image"]) == ("DPM++ 2M", 0)
    assert result.info["sd_model_hash"] == names.weights_hash(CATALOG.get(MODEL))
    assert result.image.info["parameters"] == result.info["infotexts"][0]
    assert (
        "Negative prompt: ugly\nSteps: 8, Sampler: DPM++ 2M, Schedule type: Karras"
        in (result.info["infotexts"][0])
    )
    assert result.parameters["prompt"] == "a fox"
    sampling = engine.batches[-1].sampling
    assert (sampling.sampler, sampling.schedule) == ("DPM++ 2M", "Karras")


def test_img2img_in_another_size(api: WebUIApi, engine: FakeEngine) -> None:
    for mode in (0, 1, 2):
        result = api.img2img(
            images=[scene()], resize_mode=mode, denoising_strength=0.5, seed=3, **SMALL
        )
        assert result.image.size == (64, 64)
        assert result.parameters["init_images"] is None
        batch = engine.batches[-1]
        assert (batch.pipeline, batch.strength, batch.tasks[0].mask) == (
            "image-to-image",
            0.5,
            None,
        )


def test_latents_of_a_picture_in_another_size(api: WebUIApi, engine: FakeEngine) -> None:
    result = api.img2img(images=[scene()], resize_mode=3, **SMALL)
    batch = engine.batches[-1]
    [task] = batch.tasks
    assert (batch.start, result.image.size) == ("latents", (64, 64))
    assert task.image is not None
    assert task.image.tobytes() == scene().tobytes()


@pytest.mark.parametrize(("fill", "start"), [(0, "picture"), (2, "noise"), (3, "nothing")])
def test_what_is_under_a_mask_at_first(
    api: WebUIApi, engine: FakeEngine, fill: int, start: str
) -> None:
    mask = mask_of((16, 16, 48, 48))
    api.img2img(images=[scene()], mask_image=mask, inpainting_fill=fill, **SMALL)
    assert engine.batches[-1].start == start


def test_a_larger_picture_is_drawn_over_a_small_one(
    api: WebUIApi, engine: FakeEngine, shared_world: World
) -> None:
    result = api.txt2img(
        **SMALL,
        seed=5,
        enable_hr=True,
        hr_scale=1.5,
        hr_second_pass_steps=6,
        denoising_strength=0.5,
    )
    batch = engine.batches[-1]
    assert (batch.width, batch.height, batch.strength) == (96, 96, 0.5)
    assert batch.first_pass == FirstPass(64, 64, 6, "bilinear")
    assert result.image.size == (96, 96)
    assert "Size: 64x64" in result.info["infotexts"][0]
    assert result.info["extra_generation_params"] == {
        "Hires resize": "96x96",
        "Hires steps": 6,
        "Hires upscaler": "Latent",
    }
    job = shared_world.client().get(f"/v1/jobs/{result.info['job_id']}").json
    assert (job["units"], job["pipeline"]) == (96 * 96, "text-to-image")


@pytest.mark.parametrize(
    ("asked", "size", "between"),
    [
        ({"hr_resize_x": 160, "hr_upscaler": "Lanczos"}, (160, 80), "lanczos-pixels"),
        ({"hr_resize_y": 96, "hr_upscaler": "Nearest"}, (192, 96), "nearest-pixels"),
        (
            {"hr_resize_x": 192, "hr_resize_y": 96, "hr_upscaler": "None"},
            (192, 96),
            "lanczos-pixels",
        ),
        ({"hr_upscaler": "Latent (bicubic)"}, (256, 128), "bicubic"),
    ],
)
def test_the_larger_size_and_the_way_to_it(
    api: WebUIApi, engine: FakeEngine, asked: dict[str, Any], size: tuple[int, int], between: str
) -> None:
    api.txt2img(**{**SMALL, "width": 128, "enable_hr": True, **asked})
    batch = engine.batches[-1]
    assert (batch.width, batch.height) == size
    assert batch.first_pass is not None
    assert (batch.first_pass.between, batch.first_pass.steps) == (between, 8)


def test_a_second_seed(api: WebUIApi, engine: FakeEngine) -> None:
    result = api.txt2img(**SMALL, seed=5, subseed=8, subseed_strength=0.25, batch_size=2)
    assert result.info["all_seeds"] == [5, 5]
    assert result.info["all_subseeds"] == [8, 9]
    assert result.info["subseed_strength"] == 0.25
    assert "Variation seed: 9, Variation seed strength: 0.25" in result.info["infotexts"][1]
    assert [task.variation for task in engine.batches[-1].tasks] == [
        Variation(8, 0.25),
        Variation(9, 0.25),
    ]
    random = api.txt2img(**SMALL, subseed_strength=0.1)
    assert random.info["subseed"] >= 0


@pytest.mark.parametrize(
    ("name", "format_"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("GIF", "GIF")]
)
def test_pictures_in_other_formats(api: WebUIApi, name: str, format_: str) -> None:
    result = api.txt2img(**SMALL, override_settings={"samples_format": name})
    assert result.image.format == format_
    [said] = result.info["infotexts"]
    if format_ in ("JPEG", "WEBP"):
        comment = result.image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[8:].decode("utf-16-be") == said


# --- making pictures larger -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "size", "model_id"),
    [
        ({}, (256, 192), LANCZOS),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1.5}, (192, 144), LANCZOS),
        ({"upscaler_1": UPSCALER, "upscaling_resize": 4}, (512, 384), UPSCALER),
        (
            {"resize_mode": 1, "upscaling_resize_w": 200, "upscaling_resize_h": 200},
            (200, 200),
            LANCZOS,
        ),
        (
            {
                "resize_mode": 1,
                "upscaling_resize_w": 200,
                "upscaling_resize_h": 200,
                "upscaling_crop": False,
            },
            (267, 200),
            LANCZOS,
        ),
    ],
)
def test_extra_single_image(
    api: WebUIApi,
    engine: FakeEngine,
    shared_world: World,
    asked: dict[str, Any],
    size: tuple[int, int],
    model_id: str,
) -> None:
    result = api.extra_single_image(image=scene(), **asked)
    assert result.image.size == size
    assert model_id in result.info
    batch = engine.batches[-1]
    assert (batch.pipeline, batch.model.model_id) == ("upscale", model_id)
    [task] = batch.tasks
    assert task.image is not None
    crops = asked.get("resize_mode") == 1 and asked.get("upscaling_crop", True)
    assert task.image.size == ((96, 96) if crops else (128, 96))
    newest = shared_world.client().get("/v1/jobs?limit=1").json["data"][0]
    assert (newest["units"], newest["state"]) == (size[0] * size[1], "succeeded")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"upscaler_1": "R-ESRGAN 4x+"}, "there are test/x4, Lanczos"),
        ({"upscaler_1": MODEL}, "there is no upscaler"),
        ({"upscaler_1": UPSCALER, "upscaling_resize": 4.5}, "1 to 4 times"),
        ({"upscaler_1": UPSCALER, "upscaling_resize": 0.5}, "1 to 4 times"),
        ({"upscaling_resize": 0}, "upscaling_resize"),
        ({"upscaling_resize": 20}, "1 to 1024 a side"),
        ({"resize_mode": 2}, "resize_mode"),
        ({"resize_mode": 1, "upscaling_resize_w": 0}, "upscaling_resize_w"),
        ({"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}, "upscaler_2"),
        ({"gfpgan_visibility": 1}, "gfpgan_visibility"),
        ({"codeformer_visibility": 0.1}, "codeformer_visibility"),
    ],
)
def test_an_upscaling_that_cannot_be_done_is_refused(
    api: WebUIApi, shared_world: World, asked: dict[str, Any], said: str
) -> None:
    before = shared_world.traces()
    with pytest.raises(RuntimeError) as refused:
        api.extra_single_image(image=scene(), **asked)
    assert refused.value.args[0] == 422
    assert said in json.loads(refused.value.args[1])["detail"]
    assert shared_world.traces() == before


def mask_of(box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (128, 96), "black")
    mask.paste("white", box)
    return mask


def test_a_mask_drawn_in_the_whole_picture(api: WebUIApi, engine: FakeEngine) -> None:
    whole = {**SMALL, "width": 128, "height": 96}
    result = api.img2img(
        images=[scene()],
        mask_image=mask_of((0, 0, 64, 96)),
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        **whole,
    )
    assert result.image.size == (128, 96)
    [task] = engine.batches[-1].tasks
    assert task.mask is not None
    assert task.mask.tobytes() == mask_of((0, 0, 64, 96)).tobytes()
    assert task.image is not None
    assert task.image.tobytes() == scene().tobytes()


def test_a_mask_of_which_only_the_surroundings_are_drawn(api: WebUIApi, engine: FakeEngine) -> None:
    box = (16, 16, 48, 48)
    result = api.img2img(images=[scene()], mask_image=mask_of(box), mask_blur=0, **SMALL)
    [task] = engine.batches[-1].tasks
    assert task.mask is not None
    assert task.mask.size == (64, 64)
    assert result.image.size == (128, 96)
    around = Image.composite(Image.new("RGB", (128, 96)), result.image, mask_of(box))
    expected = Image.composite(Image.new("RGB", (128, 96)), scene(), mask_of(box))
    assert around.tobytes() == expected.tobytes()
    assert result.image.crop(box).tobytes() != scene().crop(box).tobytes()


def test_a_sheet_comes_first_and_pictures_may_be_left_out(api: WebUIApi) -> None:
    result = api.txt2img(**SMALL, batch_size=4, save_images=True)
    assert [one.size for one in result.images] == [(128, 128)] + [(64, 64)] * 4
    assert result.info["index_of_first_image"] == 1
    none = api.txt2img(**SMALL, send_images=False)
    assert (none.images, len(none.info["all_seeds"])) == ([], 1)


def test_lists(api: WebUIApi) -> None:
    assert [one["title"] for one in api.get_sd_models()] == [TITLE]
    assert {"Euler a", "DPM++ 2M", "UniPC"} <= set(api.util_get_sampler_names())
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    assert api.get_loras() == []
    assert [one["name"] for one in api.get_upscalers()] == ["None", UPSCALER, "Lanczos"]
    modes = api.session.get(f"{api.baseurl}/latent-upscale-modes").json()
    assert {"name": "Latent (bicubic antialiased)"} in modes
    assert api.refresh_checkpoints() is None
    assert api.session.post(f"{api.baseurl}/unload-checkpoint").json() == {}


def test_memory_is_that_of_the_live_workers(api: WebUIApi, shared_world: World) -> None:
    assert "No worker" in api.get_memory()["ram"]["error"]
    told = {"device": 3, "device_budget": 10, "waiting": 9, "waiting_budget": 8}

    def beat(session: Session) -> None:
        owner = accounts.find_orchestrator(session, ORCHESTRATOR)
        for name in ("one", "two"):
            workers.heartbeat(session, name, owner.id, [], [], memory_bytes=told)

    shared_world.change(beat)
    assert api.get_memory() == {
        "ram": {"free": 0, "used": 18, "total": 16},
        "cuda": {"system": {"free": 14, "used": 6, "total": 20}},
    }


def test_what_is_not_done_in_time_goes_on(
    api: WebUIApi, engine: FakeEngine, shared_world: World
) -> None:
    settings = shared_world.runtime.settings
    vars(shared_world.runtime)["settings"] = settings.model_copy(
        update={"sdwebui_timeout_s": 0.001}
    )
    gate = Gate()
    engine.on_step = lambda _step: gate()
    try:
        with pytest.raises(RuntimeError) as late:
            api.txt2img(**SMALL)
    finally:
        vars(shared_world.runtime)["settings"] = settings
        engine.on_step = lambda _step: None
        gate.open()
    status, text = late.value.args
    told = json.loads(text)
    assert (status, told["code"]) == (504, "timeout")
    job = shared_world.client().get(f"/v1/jobs/{told['job_id']}?wait=60").json
    assert (job["state"], len(job["outputs"])) == ("succeeded", 1)


def test_every_sampler_that_is_listed_is_taken(api: WebUIApi, engine: FakeEngine) -> None:
    listed = api.util_get_sampler_names()
    for name in listed:
        api.txt2img(**SMALL, sampler_name=name)
    assert {one.sampling.sampler for one in engine.batches} >= set(listed)


def test_set_model_and_options(api: WebUIApi) -> None:
    api.util_set_model(MODEL)
    assert api.util_get_current_model() == TITLE
    api.set_options(api.get_options())
    answer = api.session.post(f"{api.baseurl}/options", json={"sd_model_checkpoint": "no/such"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    for name in (UNSOLD, UPSCALER):
        answer = api.session.post(f"{api.baseurl}/options", json={"sd_model_checkpoint": name})
        assert (answer.status_code, answer.json()["code"]) == (404, "no_offer")
    answer = api.session.post(f"{api.baseurl}/options", json={"CLIP_stop_at_last_layers": 2})
    assert answer.status_code == 422
    assert api.util_get_current_model() == TITLE
    named = api.txt2img(**SMALL, override_settings={"sd_model_checkpoint": TITLE})
    assert named.info["sd_model_name"] == names.file_name(CATALOG.get(MODEL)).removesuffix(
        names.CHECKPOINT
    )


def test_a_model_that_is_to_stay_is_remembered_though_its_offer_ends_meanwhile(
    api: WebUIApi, shared_world: World
) -> None:
    ringer = shared_world.runtime.ringer
    sold: list[LiveOffer] = []

    def withdraw(bell: Bell) -> None:
        """The job is placed, and nobody offers its model any more."""
        with shared_world.sessions.begin() as session:
            sold.extend(offers.live(session, Offer.model_id == MODEL))
            for offer in sold:
                offers.withdraw(session, offer)
        ringer.ring(bell)

    api.set_options({"sd_model_checkpoint": ""})
    vars(shared_world.runtime)["ringer"] = SimpleNamespace(ring=withdraw)
    try:
        stays = {"override_settings": {"sd_model_checkpoint": TITLE}}
        made = api.txt2img(**SMALL, **stays, override_settings_restore_afterwards=False)
        assert len(made.images) == 1
        assert api.util_get_current_model() == TITLE
        vars(shared_world.runtime)["ringer"] = ringer
        refused = api.session.post(f"{api.baseurl}/txt2img", json=SMALL)
        assert (refused.status_code, refused.json()["code"]) == (404, "no_offer")
    finally:
        vars(shared_world.runtime)["ringer"] = ringer
        with shared_world.sessions.begin() as session:
            for offer in sold:
                offers.publish(session, offer.orchestrator_id, offer.capability, offer.price, "USD")


def test_an_adapter_is_taken_out_of_the_prompt(api: WebUIApi, engine: FakeEngine) -> None:
    api.txt2img(**{**SMALL, "prompt": "a fox <lora:owner/style:0.6>"})
    batch = engine.batches[-1]
    assert (dict(batch.loras), batch.tasks[0].prompt) == ({"owner/style": 0.6}, "a fox")


# --- progress and interrupt -------------------------------------------------------------------


class Drawing:
    """A request that is under way in a thread of its own, at a step where it waits."""

    def __init__(self, api: WebUIApi, engine: FakeEngine) -> None:
        self._gate = Gate()
        engine.on_step = lambda step: self._gate() if step == 4 else None
        self.results: list[Any] = []
        self._thread = threading.Thread(target=self._draw, args=(api,))
        self._thread.start()
        self._gate.wait_for_arrival()

    def _draw(self, api: WebUIApi) -> None:
        self.results.append(api.txt2img(**SMALL, seed=1))

    def finish(self, engine: FakeEngine) -> Any:
        engine.on_step = lambda _step: None
        self._gate.open()
        self._thread.join(30)
        return self.results[0]


def test_progress_is_the_callers_own(
    api: WebUIApi, engine: FakeEngine, address: str, shared_world: World
) -> None:
    idle = api.get_progress()
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)
    other = WebUIApi(baseurl=address, username="b", password=shared_world.other_key)
    drawing = Drawing(api, engine)
    try:
        busy = api.get_progress()
        assert busy["state"]["job_count"] == 1
        assert busy["state"]["sampling_steps"] == 8
        assert 0 <= busy["progress"] < 1
        assert other.get_progress()["state"]["job_count"] == 0
        other.interrupt()
    finally:
        result = drawing.finish(engine)
    assert len(result.images) == 1
    api.util_wait_for_ready()


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_what_is_interrupted_has_no_pictures_and_costs_nothing(
    api: WebUIApi, engine: FakeEngine, shared_world: World, how: str
) -> None:
    before = shared_world.client().get("/v1/balance").json
    drawing = Drawing(api, engine)
    try:
        assert getattr(api, how)() in ({}, None)
    finally:
        result = drawing.finish(engine)
    assert result.images == []
    assert result.info["all_seeds"] == []
    assert shared_world.client().get("/v1/balance").json == before


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"sampler_name": "DPM adaptive"}, 400, "there is no sampler"),
        ({"sampler_name": "Euler", "scheduler": "polyexponential"}, 400, "there is no schedule"),
        ({"override_settings": {"sd_model_checkpoint": "no"}}, 404, "'no'"),
        ({"override_settings": {"sd_vae": "x"}}, 422, "cannot be changed"),
        ({"script_name": "x/y/z plot"}, 422, "Script 'x/y/z plot' not found"),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, 422, "Script 'ControlNet' not found"),
        ({"enable_hr": True, "hr_scale": 9}, 422, "hr_scale"),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, 422, "Latent (bicubic)"),
        ({"enable_hr": True, "hr_sampler_name": "Euler"}, 422, "hr_sampler_name"),
        ({"enable_hr": True, "hr_prompt": "a dog"}, 422, "hr_prompt"),
        ({"enable_hr": True, "hr_resize_x": 128, "hr_resize_y": 96}, 422, "hr_resize_y"),
        ({"enable_hr": True, "firstphase_width": 32}, 422, "firstphase_width"),
        ({"subseed_strength": 1.5}, 422, "subseed_strength"),
        ({"seed_resize_from_w": 64}, 422, "seed_resize_from_w"),
        ({"eta": 0.5}, 422, "eta"),
        ({"s_churn": 1}, 422, "s_churn"),
        ({"override_settings": {"samples_format": "tiff"}}, 422, "samples_format"),
        ({"tiling": True, "restore_faces": True}, 422, "tiling"),
        ({"width": 100_000}, 422, "width"),
        ({"batch_size": 4, "n_iter": 5}, 422, "num_images_per_prompt"),
        ({"batch_size": -2, "n_iter": -2}, 422, "batch_size"),
        ({"prompt": "a <lora:nobody:1>"}, 422, "there is no adapter 'nobody'"),
        ({"prompt": "a <hypernet:x:1>"}, 422, "<hypernet:...>"),
        ({"prompt": "a <lora:owner/style:much>"}, 422, "no weight"),
    ],
)
def test_what_cannot_be_done_is_refused_in_the_webuis_shape(
    api: WebUIApi, shared_world: World, changes: dict[str, Any], status: int, said: str
) -> None:
    before = shared_world.traces()
    with pytest.raises(RuntimeError) as refused:
        api.txt2img(**{**SMALL, **changes})
    found, text = refused.value.args
    body = json.loads(text)
    assert (found, {"error", "detail", "body", "errors"} <= set(body)) == (status, True)
    assert said in body["detail"]
    assert shared_world.traces() == before


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"images": []}, 404, "Init image not found"),
        ({"images": [scene(), scene()]}, 422, "must be one picture"),
        ({"resize_mode": 4}, 422, "resize_mode"),
        ({"resize_mode": 3, "mask_image": scene()}, 422, "without a mask"),
        ({"mask_image": scene(), "inpainting_fill": 4}, 422, "inpainting_fill"),
        ({"subseed_strength": 0.5}, 422, "subseed_strength"),
        ({"mask_image": Image.new("L", (128, 96))}, 422, "black all over"),
        ({"initial_noise_multiplier": 0.5}, 422, "initial_noise_multiplier"),
    ],
)
def test_a_picture_that_cannot_be_drawn_from_is_refused(
    api: WebUIApi, changes: dict[str, Any], status: int, said: str
) -> None:
    with pytest.raises(RuntimeError) as refused:
        api.img2img(**{**SMALL, "images": [scene()], **changes})
    assert refused.value.args[0] == status
    assert said in json.loads(refused.value.args[1])["detail"]


def test_a_wrong_password_is_asked_for_again(address: str) -> None:
    with pytest.raises(RuntimeError) as refused:
        WebUIApi(baseurl=address, username="a", password="px_wrong").txt2img(**SMALL)
    assert refused.value.args[0] == 401
    for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Basic eA=="}):
        answer = httpx.get(f"{address}/options", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_bearer_is_let_in_and_plain_fields_are_enough(address: str, shared_world: World) -> None:
    headers = {"Authorization": f"Bearer {shared_world.key}"}
    body = {"prompt": "a fox", "width": 64, "height": 64, "seed": None}
    answer = httpx.post(f"{address}/txt2img", json=body, headers=headers, timeout=60)
    [image] = answer.json()["images"]
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (64, 64)
    assert json.loads(answer.json()["info"])["steps"] == 50
