"""The PNG that a client downloads: lossless, labelled, and made without wasting a core's time."""

from __future__ import annotations

import io

from PIL import Image

from tasks.engine.encoding import encode_png


def test_a_picture_comes_back_pixel_by_pixel_with_its_origin() -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    origin = {"model_id": "maker/model", "model_hash": "6ce0161689", "job_id": "0198-job"}
    data = encode_png(picture, seed=2**62, **origin)
    decoded = Image.open(io.BytesIO(data))
    assert decoded.format == "PNG"
    assert decoded.tobytes() == picture.tobytes()
    origin["model"] = origin.pop("model_id")
    assert decoded.info == {"seed": str(2**62), **origin}


def test_the_same_picture_encodes_to_the_same_bytes() -> None:
    picture = Image.radial_gradient("L").convert("RGB")
    origin = {"model_id": "m", "model_hash": "h", "job_id": "j"}
    first, second = (encode_png(picture, seed=1, **origin) for _ in range(2))
    assert first == second
