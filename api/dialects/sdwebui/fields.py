"""What a WebUI client sends. Names and defaults are the WebUI's.

As there, fields that are not known are ignored, and null is a field that is not given. What is
known and cannot be done here is refused: see `asking`. Bounds are the model's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas import Number


class Fields(BaseModel):
    """What both routes take."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str = Field(
        "",
        description="What to draw. `<lora:name:weight>` uses an adapter of `GET loras`, or any "
        "that is allowed, by its address.",
    )
    negative_prompt: str = ""
    styles: list[str] = Field([], description="Must be empty: there are no styles here.")
    seed: int = Field(-1, description="-1 is a random one. Picture k has the seed `seed + k`.")
    subseed: int = -1
    subseed_strength: Number = Field(0.0, description="Must be 0.")
    sampler_name: str | None = Field(None, description="One of `GET samplers`.")
    sampler_index: str = Field("Euler", description="The same, where `sampler_name` is missing.")
    scheduler: str | None = Field(None, description="One of `GET schedulers`.")
    batch_size: int = 1
    n_iter: int = Field(1, description="`batch_size` x `n_iter` pictures are made.")
    steps: int = 50
    cfg_scale: Number = 7.0
    width: int = 512
    height: int = 512
    denoising_strength: Number = 0.75
    restore_faces: bool = Field(default=False, description="Must be false.")
    tiling: bool = Field(default=False, description="Must be false.")
    refiner_checkpoint: str | None = Field(None, description="Must be empty.")
    override_settings: dict[str, Any] = Field(
        {}, description="`sd_model_checkpoint`: the model of this request; see `POST options`."
    )
    override_settings_restore_afterwards: bool = True
    script_name: str | None = Field(None, description="Must be empty: there are no scripts here.")
    alwayson_scripts: dict[str, Any] = Field({}, description="Must be empty.")
    send_images: bool = True
    save_images: bool = Field(
        default=False,
        description="Put a sheet of all pictures first, if there are several. They "
        "are kept in any case.",
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class TextToImage(Fields):
    """The body of `/sdapi/v1/txt2img`."""

    enable_hr: bool = Field(default=False, description="Must be false.")


class ImageToImage(Fields):
    """The body of `/sdapi/v1/img2img`."""

    init_images: list[str] = Field(
        [], description="One picture, as base64, a `data:` URL, or an http, https or s3 link."
    )
    resize_mode: int = Field(
        0, description="0: stretch. 1: crop. 2: show all of it, its edges drawn out. Not 3."
    )
    image_cfg_scale: Number = Field(1.5, description="instruct-pix2pix models only.")
    mask: str | None = Field(
        None, description="As `init_images`, and of that size: white is drawn, black stays."
    )
    mask_blur: Number = 4.0
    inpainting_fill: int = Field(
        0,
        description="What is under the mask at first. 0: the colours around it. 1: what is "
        "there. Not 2 or 3.",
    )
    inpaint_full_res: bool = Field(
        default=True,
        description="Draw what is around the mask in the size that is asked for, and "
        "put it back into the whole picture.",
    )
    inpaint_full_res_padding: int = Field(0, description="How many pixels around the mask to see.")
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: Number = Field(1.0, description="Must be 1.")
    include_init_images: bool = False
