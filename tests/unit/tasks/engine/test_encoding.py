"""The PNG that a client downloads: lossless, labelled, and made without wasting a core's time."""

from __future__ import annotations

import io

from PIL import Image

from tasks.engine.encoding import encode_png


def test_a_picture_comes_back_pixel_by_pixel_with_its_origin() -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    data = encode_png(picture, seed=2**62, model_id="maker/model", job_id="0198-job")
    decoded = Image.open(io.BytesIO(data))
    assert decoded.format == "PNG"
    assert decoded.tobytes() == picture.tobytes()
    assert decoded.info == {"seed": str(2**62), "model": "maker/model", "job_id": "0198-job"}


def test_the_same_picture_encodes_to_the_same_bytes() -> None:
    picture = Image.radial_gradient("L").convert("RGB")
    first, second = (encode_png(picture, seed=1, model_id="m", job_id="j") for _ in range(2))
    assert first == second
