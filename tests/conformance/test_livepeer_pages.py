"""What Livepeer's pages show: curl's commands as they are written there but for the address, and a
request of the SDK's with nothing but a prompt.

Real pipelines draw, from an operator's own catalog that mirrors the models of the pages as small
ones.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from livepeer_ai import Livepeer
from PIL import Image
from pydantic import SecretStr
from sqlalchemy.orm import Session

from ledger import accounts, offers
from ledger.money import unit_price
from ledger.offers import Capability
from tasks import catalog as catalogs
from tasks.engine import sources
from tasks.engine.demo import make_demo
from tasks.engine.diffusion import DiffusionEngine
from tests.engine.adapters import make_lora
from tests.engine.helpers import pipeline_of
from tests.integration.api.working import served, working
from tests.integration.api.world import ORCHESTRATOR, PRICE, World

# What diffusers' schedulers do that a later numpy, or a later diffusers, will refuse.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning"),
]

# Livepeer's gateway names SDXL-Turbo as its default. Fewer steps than the models have: the pages
# ask for large pictures, and the tests' machine is small.
MIRROR = """
[[model]]
model_id = "stabilityai/sdxl-turbo"
source = "demo-sdxl"
layout = "stable-diffusion-xl"
pipelines = ["text-to-image", "image-to-image"]
max_size = 1024
default_steps = 1
run_steps = [1, 1]
raise_strength = true
default_guidance_scale = 0.0
run_guidance_scale = [0.0, 0.0]

[[model]]
model_id = "ByteDance/SDXL-Lightning"
source = "demo-sdxl"
layout = "stable-diffusion-xl"
pipelines = ["text-to-image", "image-to-image"]
scheduler = "EulerDiscreteScheduler"
timestep_spacing = "trailing"
max_size = 1024
default_steps = 8
run_steps = [8, 8]
default_guidance_scale = 0.0
run_guidance_scale = [0.0, 0.0]

[[model]]
model_id = "timbrooks/instruct-pix2pix"
source = "demo-pix2pix"
layout = "instruct-pix2pix"
pipelines = ["image-to-image"]
max_size = 1024
default_steps = 10
run_steps = [1, 10]
"""
TURBO, LIGHTNING, PIX2PIX = (
    "stabilityai/sdxl-turbo",
    "ByteDance/SDXL-Lightning",
    "timbrooks/instruct-pix2pix",
)
STYLE = "nerijs/pixel-art-xl"

# Word for word; one page has lost the last two signs of its body, which other versions of it have.
TEXT_TO_IMAGE = """
curl -X POST "https://<gateway-ip>/text-to-image" \\
    -H "Content-Type: application/json" \\
    -d '{
        "prompt":"A cool cat on the beach",
        "width": 1024,
        "height": 1024
    }'
"""
IMAGE_TO_IMAGE = """
curl -X POST https://<gateway-ip>/image-to-image \\
    -F model_id="ByteDance/SDXL-Lightning" \\
    -F image=@<PATH_TO_IMAGE>/cool-cat.png \\
    -F prompt="a hat"
"""
FROM_INSTRUCTIONS = """
curl -X POST https://<GATEWAY_IP>/image-to-image \\
    -F model_id="timbrooks/instruct-pix2pix" \\
    -F image=@<PATH_TO_IMAGE>/cool-cat.png \\
    -F prompt="a hat"
"""
WITH_AN_ADAPTER = """
curl -X POST https://<GATEWAY_IP>/image-to-image \\
    -F model_id="ByteDance/SDXL-Lightning" \\
    -F image=@<PATH_TO_IMAGE>/cool-cat.png \\
    -F prompt="a hat" \\
    -F loras='{ "nerijs/pixel-art-xl": 1.2 }'
"""


@pytest.fixture(scope="module")
def gateway(shared_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a gateway is that asks for no key, as Livepeer's own."""
    folder = make_demo(tmp_path_factory.mktemp("models")).parent
    (folder / "mirror.toml").write_text(MIRROR, "utf-8")
    catalog = catalogs.load(folder / "mirror.toml")
    vars(shared_world.runtime)["catalog"] = catalog
    vars(shared_world.runtime)["settings"] = shared_world.runtime.settings.model_copy(
        update={
            "livepeer_key": SecretStr(shared_world.key),
            "livepeer_text_to_image_model": TURBO,
        }
    )
    shared_world.change(_offer)
    engine = DiffusionEngine(tmp_path_factory.mktemp("cache"), device="cpu")
    base = pipeline_of(engine, catalog.get(LIGHTNING), "image-to-image")
    style = make_lora(base, folder / "pixel-art-xl.safetensors")
    # The hub's own client is `tests/engine/test_hub`'s matter.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_lora_on_hub", {STYLE: style}.__getitem__)
        with (
            working(shared_world, engine, (TURBO, LIGHTNING, PIX2PIX)),
            served(shared_world) as address,
        ):
            yield address


def _offer(session: Session) -> None:
    owner = accounts.find_orchestrator(session, ORCHESTRATOR)
    for pipeline in ("text-to-image", "image-to-image"):
        for model_id in (TURBO, LIGHTNING, PIX2PIX):
            capability = Capability(pipeline, model_id)
            offers.publish(session, owner.id, capability, unit_price(PRICE), "USD")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cool cat is."""
    folder = tmp_path_factory.mktemp("pictures")
    cat = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    cat.save(folder / "cool-cat.png")
    return folder


def run(command: str, gateway: str, folder: Path) -> dict[str, Any]:
    """Run a page's command, with its places filled in, and return what it prints."""
    for place in ("<gateway-ip>", "<GATEWAY_IP>"):
        command = command.replace(f"https://{place}", gateway)
    command = command.replace("<PATH_TO_IMAGE>", str(folder))
    shell = shutil.which("bash")
    assert shell, "the commands are a shell's"
    assert shutil.which("curl"), "the commands are curl's"
    done = subprocess.run((shell, "-c", command), check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "images" in answer, answer
    return answer


def drawn(answer: dict[str, Any], gateway: str) -> Image.Image:
    """The one picture of an answer, fetched by the page's other command."""
    [image] = answer["images"]
    assert set(image) == {"nsfw", "seed", "url"}
    assert image["url"].startswith(f"{gateway}/stream/")
    return Image.open(io.BytesIO(httpx.get(image["url"]).content))


@pytest.mark.slow
def test_text_to_image(gateway: str, folder: Path) -> None:
    answer = run(TEXT_TO_IMAGE, gateway, folder)
    assert drawn(answer, gateway).size == (1024, 1024)
    assert (answer["model_id"], answer["num_inference_steps"]) == (TURBO, 1)
    assert answer["amount"] == "0.019999997558784"  # 1024 x 1024 at the price of the pages


@pytest.mark.parametrize(
    ("command", "model_id", "steps"),
    [(IMAGE_TO_IMAGE, LIGHTNING, 8), (FROM_INSTRUCTIONS, PIX2PIX, 10)],
)
def test_image_to_image(
    command: str, model_id: str, steps: int, gateway: str, folder: Path
) -> None:
    answer = run(command, gateway, folder)
    assert drawn(answer, gateway).size == (96, 64)
    assert (answer["model_id"], answer["num_inference_steps"]) == (model_id, steps)


def test_an_adapter(gateway: str, folder: Path, shared_world: World) -> None:
    answer = run(WITH_AN_ADAPTER, gateway, folder)
    assert drawn(answer, gateway).size == (96, 64)
    job = shared_world.client().get(f"/v1/jobs/{answer['job_id']}").json
    assert job["parameters"]["loras"] == {STYLE: 1.2}


def test_a_request_of_nothing_but_what_the_sdk_fills_in(gateway: str, shared_world: World) -> None:
    with Livepeer(http_bearer=shared_world.key, server_url=gateway) as sdk:
        response = sdk.generate.text_to_image(request={"prompt": "A cool cat on the beach"})
    answer: Any = response.http_meta
    assert drawn(answer.response.json(), gateway).size == (1024, 576)
