"""How noise is taken away step by step, by the names that people use: samplers and schedules. Pure.

The names are those of the Stable Diffusion WebUI; each is a diffusers scheduler with options, or it
is not here. Nothing is run in the place of what cannot be run. The engine makes the schedulers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.catalog import Layout
from tasks.errors import FieldError, InvalidParams

AUTOMATIC = "Automatic"
# What the flow-matching models integrate with is Euler's method, by a scheduler of their own.
_OWN = "Euler"
_ITS_OWN = (AUTOMATIC,)
_SPACED = (AUTOMATIC, "Karras", "Exponential", "SGM Uniform", "Simple", "Beta")
_FLOW: frozenset[Layout] = frozenset({"stable-diffusion-3", "flux"})
_NONE: frozenset[Layout] = frozenset({"resampling"})


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler by the name that people know it by.

    `schedule` is what `Automatic` means for it, and `schedules` are all that it can do.
    `most_steps` is how many steps it can do.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    schedule: str = AUTOMATIC
    schedules: tuple[str, ...] = _SPACED
    most_steps: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How the levels of noise are spaced: options that several diffusers schedulers have."""

    name: str
    label: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """What is run; two empty names are the model's own."""

    sampler: str = ""
    schedule: str = ""


# Every option that a schedule sets, so that none of the model's own stays in force beside it.
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_MULTISTEP = "DPMSolverMultistepScheduler"
_ODE, _SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}
_MIDPOINT = {"solver_type": "midpoint"}
_UNCLIPPED = {"clip_sample": False}
# A distilled model learned this many places on the way, and cannot do more steps.
_LCM_STEPS = 50

SAMPLERS: tuple[Sampler, ...] = (
    Sampler(
        "DPM++ 2M",
        _MULTISTEP,
        {**_ODE, **_MIDPOINT, "solver_order": 2},
        ("k_dpmpp_2m",),
        "Karras",
    ),
    Sampler(
        "DPM++ SDE",
        "DPMSolverSinglestepScheduler",
        _SDE,
        ("k_dpmpp_sde",),
        "Karras",
        (AUTOMATIC, "Karras", "Exponential", "Beta"),
    ),
    Sampler(
        "DPM++ 2M SDE",
        _MULTISTEP,
        {**_SDE, **_MIDPOINT, "solver_order": 2},
        ("k_dpmpp_2m_sde",),
        "Exponential",
    ),
    Sampler(
        "DPM++ 2M SDE Heun",
        _MULTISTEP,
        {**_SDE, "solver_order": 2, "solver_type": "heun"},
        ("k_dpmpp_2m_sde_heun",),
        "Exponential",
    ),
    Sampler(
        "DPM++ 3M SDE",
        _MULTISTEP,
        {**_SDE, **_MIDPOINT, "solver_order": 3},
        ("k_dpmpp_3m_sde",),
        "Exponential",
    ),
    Sampler("Euler a", "EulerAncestralDiscreteScheduler", {}, ("k_euler_a",), schedules=_ITS_OWN),
    Sampler(_OWN, "EulerDiscreteScheduler", {}, ("k_euler",)),
    Sampler("LMS", "LMSDiscreteScheduler", {}, ("k_lms",)),
    Sampler("Heun", "HeunDiscreteScheduler", {}, ("k_heun",)),
    Sampler("DPM2", "KDPM2DiscreteScheduler", {}, ("k_dpm_2",), "Karras"),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler", {}, ("k_dpm_2_a",), "Karras"),
    Sampler("DDIM", "DDIMScheduler", _UNCLIPPED, (), schedules=_ITS_OWN),
    Sampler("DDPM", "DDPMScheduler", _UNCLIPPED, (), schedules=_ITS_OWN),
    Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}, (), schedules=_ITS_OWN),
    Sampler("UniPC", "UniPCMultistepScheduler"),
    Sampler(
        "LCM",
        "LCMScheduler",
        {"original_inference_steps": _LCM_STEPS},
        (),
        schedules=_ITS_OWN,
        most_steps=_LCM_STEPS,
    ),
)
SCHEDULES: tuple[Schedule, ...] = (
    Schedule("automatic", AUTOMATIC, _PLAIN),
    Schedule("karras", "Karras", {**_PLAIN, "use_karras_sigmas": True}),
    Schedule(
        "exponential",
        "Exponential",
        {**_PLAIN, "use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    ),
    Schedule("sgm_uniform", "SGM Uniform", {**_PLAIN, "timestep_spacing": "trailing"}),
    Schedule("simple", "Simple", {**_PLAIN, "timestep_spacing": "trailing"}),
    Schedule("beta", "Beta", {**_PLAIN, "use_beta_sigmas": True, "timestep_spacing": "linspace"}),
)

_SAMPLERS = {key.lower(): one for one in SAMPLERS for key in (one.name, *one.aliases)}
_SCHEDULES = {key.lower(): one for one in SCHEDULES for key in (one.name, one.label)}


def choose(layout: Layout, sampler: str | None, schedule: str | None, steps: int) -> Choice:
    """Return what names mean for a model's layout; without a sampler, the model's own is run.

    As in the WebUI, the name of a sampler may end in the one of a schedule: `DPM++ 2M Karras`.

    Raises:
        InvalidParams: There is none of the name, or the model or the sampler cannot do it.
    """
    if not sampler:
        if schedule and schedule.lower() != AUTOMATIC.lower():
            raise _refused("schedule", "needs a sampler; name one, or leave both out")
        return Choice()
    if layout in _NONE:
        raise _refused("sampler", f"must be left out: models of the layout {layout} have none")
    found, trailing = _split(sampler)
    if trailing is not None and schedule and _schedule(schedule).label not in (AUTOMATIC, trailing):
        raise _refused("schedule", f"is not the one that {sampler!r} names; leave one of them out")
    asked = trailing or (_schedule(schedule).label if schedule else AUTOMATIC)
    if layout in _FLOW:
        if (found.name, asked) != (_OWN, AUTOMATIC):
            raise _refused("sampler", f"must be {_OWN}, without a schedule, for a {layout} model")
        return Choice()
    if asked not in found.schedules:
        able = " or ".join(found.schedules)
        raise _refused("schedule", f"is {asked}; {found.name} does {able}")
    if found.most_steps is not None and steps > found.most_steps:
        said = f"is {steps}; {found.name} does at most {found.most_steps}"
        raise _refused("num_inference_steps", said)
    return Choice(found.name, found.schedule if asked == AUTOMATIC else asked)


def recipe(choice: Choice) -> tuple[str, dict[str, Any]]:
    """Return the diffusers class, and what to change of the model's own scheduler for it."""
    sampler = _SAMPLERS[choice.sampler.lower()]
    spaced = _SCHEDULES[choice.schedule.lower()].options if sampler.schedules != _ITS_OWN else {}
    return sampler.kind, {**spaced, **sampler.options}


def _split(name: str) -> tuple[Sampler, str | None]:
    """Return the sampler of a name, and the label of the schedule that it ends in."""
    text = name.strip().lower()
    if text in _SAMPLERS:
        return _SAMPLERS[text], None
    for key, schedule in _SCHEDULES.items():
        first = text.removesuffix(f" {key}")
        if first != text and first in _SAMPLERS:
            return _SAMPLERS[first], schedule.label
    names = ", ".join(one.name for one in SAMPLERS)
    raise _refused("sampler", f"there is no sampler {name[:100]!r} here; there are {names}")


def _schedule(name: str) -> Schedule:
    try:
        return _SCHEDULES[name.strip().lower()]
    except KeyError:
        names = ", ".join(one.label for one in SCHEDULES)
        said = f"there is no schedule {name[:100]!r} here; there are {names}"
        raise _refused("schedule", said) from None


def _refused(name: str, said: str) -> InvalidParams:
    return InvalidParams([FieldError(name, said)])
