"""What a WebUI client sends. Names and defaults are the WebUI's.

As there, fields that are not known are ignored, and null is a field that is not given. What is
known and cannot be done here is refused: see `asking`. Bounds are the model's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas import Number, Whole


class _Body(BaseModel):
    """A body of the WebUI's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class Fields(_Body):
    """What the routes that draw take."""

    prompt: str = Field(
        "",
        description="What to draw. `<lora:name:weight>` uses an adapter of `GET loras`, or any "
        "that is allowed, by its address.",
    )
    negative_prompt: str = ""
    styles: list[str] = Field([], description="Must be empty: there are no styles here.")
    seed: Whole = Field(-1, description="-1 is a random one. Picture k has the seed `seed + k`.")
    subseed: Whole = Field(-1, description="A second seed; -1 is a random one.")
    subseed_strength: Number = Field(
        0.0,
        description="How far the noise leaves the seed's for the subseed's, from 0 to 1. Then "
        "picture k has the seed `seed` and the subseed `subseed + k`. txt2img only.",
    )
    seed_resize_from_w: Whole = Field(0, description="Must be 0 or less.")
    seed_resize_from_h: Whole = Field(0, description="Must be 0 or less.")
    eta: Number | None = Field(None, description="Must be 0 or 1: each sampler has its own.")
    s_churn: Number = Field(0.0, description="Must be 0.")
    s_tmin: Number = Field(0.0, description="Must be 0.")
    s_tmax: Number | None = Field(None, description="Must be 0.")
    s_noise: Number = Field(1.0, description="Must be 1.")
    s_min_uncond: Number = Field(0.0, description="Must be 0.")
    infotext: str | None = Field(None, description="Must be empty.")
    sampler_name: str | None = Field(None, description="One of `GET samplers`.")
    sampler_index: str = Field("Euler", description="The same, where `sampler_name` is missing.")
    scheduler: str | None = Field(None, description="One of `GET schedulers`.")
    batch_size: Whole = 1
    n_iter: Whole = Field(1, description="`batch_size` x `n_iter` pictures are made.")
    steps: Whole = 50
    cfg_scale: Number = 7.0
    width: Whole = 512
    height: Whole = 512
    denoising_strength: Number = 0.75
    restore_faces: bool = Field(default=False, description="Must be false.")
    tiling: bool = Field(default=False, description="Must be false.")
    refiner_checkpoint: str | None = Field(None, description="Must be empty.")
    override_settings: dict[str, Any] = Field(
        {},
        description="`sd_model_checkpoint`: the model of this request; see `POST options`. "
        "`samples_format`: png, jpg, webp or gif.",
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


class TextToImage(Fields):
    """The body of `/sdapi/v1/txt2img`."""

    enable_hr: bool = Field(
        default=False,
        description="Draw a picture of `width` x `height` first, and over it, by "
        "`denoising_strength`, in the larger size, which is what is paid for.",
    )
    hr_scale: Number = Field(2.0, description="How many times larger.")
    hr_resize_x: Whole = Field(0, description="The larger width, in place of `hr_scale`.")
    hr_resize_y: Whole = Field(0, description="The larger height. If both are given, of the shape.")
    hr_upscaler: str = Field(
        "Latent", description="One of `GET latent-upscale-modes`, or None, Lanczos or Nearest."
    )
    hr_second_pass_steps: Whole = Field(0, description="0: as `steps`.")
    hr_checkpoint_name: str | None = Field(None, description="Must be empty: the same model.")
    hr_sampler_name: str | None = Field(None, description="Must be empty: the same sampler.")
    hr_scheduler: str | None = Field(None, description="Must be empty: the same schedule.")
    hr_prompt: str = Field("", description="Must be empty, or `prompt`.")
    hr_negative_prompt: str = Field("", description="Must be empty, or `negative_prompt`.")
    firstphase_width: Whole = Field(0, description="Must be 0.")
    firstphase_height: Whole = Field(0, description="Must be 0.")


class ImageToImage(Fields):
    """The body of `/sdapi/v1/img2img`."""

    init_images: list[str] = Field(
        [], description="One picture, as base64, a `data:` URL, or an http, https or s3 link."
    )
    resize_mode: Whole = Field(
        0,
        description="0: stretch. 1: crop. 2: show all of it, its edges drawn out. 3: stretch what "
        "the model sees of it; without a mask.",
    )
    image_cfg_scale: Number = Field(1.5, description="instruct-pix2pix models only.")
    mask: str | None = Field(
        None, description="As `init_images`, and of that size: white is drawn, black stays."
    )
    mask_blur: Number = 4.0
    mask_blur_x: Number | None = Field(None, description="Must be `mask_blur`.")
    mask_blur_y: Number | None = Field(None, description="Must be `mask_blur`.")
    inpainting_fill: Whole = Field(
        0,
        description="What is under the mask at first. 0: the colours around it. 1: what is "
        "there. 2: noise. 3: nothing.",
    )
    inpaint_full_res: bool = Field(
        default=True,
        description="Draw what is around the mask in the size that is asked for, and "
        "put it back into the whole picture.",
    )
    inpaint_full_res_padding: Whole = Field(
        0, description="How many pixels around the mask to see."
    )
    inpainting_mask_invert: Whole = 0
    initial_noise_multiplier: Number = Field(1.0, description="Must be 1.")
    include_init_images: bool = False


class ExtraSingleImage(_Body):
    """The body of `/sdapi/v1/extra-single-image`."""

    image: str = Field(
        "", description="The picture, as base64, a `data:` URL, or an http, https or s3 link."
    )
    resize_mode: Whole = Field(
        0,
        description="0: by `upscaling_resize`. 1: to `upscaling_resize_w` x `upscaling_resize_h`.",
    )
    upscaling_resize: Number = Field(2.0, description="How many times larger.")
    upscaling_resize_w: Whole = 512
    upscaling_resize_h: Whole = 512
    upscaling_crop: bool = Field(
        default=True,
        description="Crop the picture to that shape. Else that size is covered.",
    )
    upscaler_1: str = Field("None", description="One of `GET upscalers`. None resamples: Lanczos.")
    upscaler_2: str = Field("None", description="Must be None.")
    extras_upscaler_2_visibility: Number = Field(0.0, description="Must be 0.")
    gfpgan_visibility: Number = Field(0.0, description="Must be 0.")
    codeformer_visibility: Number = Field(0.0, description="Must be 0.")
