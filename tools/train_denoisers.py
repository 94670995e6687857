"""Teaches the denoisers: from a caption, from an instruction and a picture, and in another style.

Owns their data and their loss: the velocity between a scene's latents and noise. Prompts and input
pictures are left out now and then, which is what guidance needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch.nn import functional
from transformers import CLIPTokenizer

from tools import captions, networks, scenes
from tools.learning import Run, learn
from tools.networks import Network
from tools.scenes import Scene
from tools.train_text import tokens
from tools.train_vae import encode, tensor

_POOL = 7000  # scenes drawn and encoded once; their captions change
_PAIRS = 5000
_HINT = 0.7
_OUTLINED = 3000
_FAINT = 150.0  # contrast below which a line is easily lost: it is seen twice as often
_BATCH = 16
_DROPPED = 0.1
_EDGES = 6.0
_LORA_RANK = 16
# Every convolution, too: attention alone sees the latents halved, too few places to hollow a shape
# out.
_LORA_LAYERS = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut"),
]


@dataclass(frozen=True)
class Parts:
    """What every denoiser is trained beside, and never changed by it."""

    vae: Network
    text_encoder: Network
    tokenizer: CLIPTokenizer
    device: str

    def latents(self, drawn: Sequence[Scene]) -> torch.Tensor:
        """Return the latents of scenes."""
        pictures = tensor([scenes.render(scene) for scene in drawn])
        return encode(self.vae, pictures.to(self.device))

    def states(self, texts: list[str]) -> torch.Tensor:
        """Return what the text encoder makes of texts."""
        with torch.no_grad():
            states: torch.Tensor = self.text_encoder(
                tokens(self.tokenizer, texts).to(self.device)
            ).last_hidden_state
        return states


def train_text_to_image(run: Run, parts: Parts, unet: Network | None = None) -> Network:
    """Return a denoiser that draws captions; one that is given learns on."""
    drawn = _with_stars([scenes.draw_any(run.rng) for _ in range(_POOL)], 3)
    unet = networks.unet() if unet is None else unet
    unet.to(parts.device).train()
    learn(run, [unet], _caption_loss(run.rng, unet, parts, drawn))
    return unet.eval()


def train_style(run: Run, parts: Parts, unet: Network) -> None:
    """Teach a denoiser's adapter to draw outlines only; where there is none, one is added."""
    drawn = _with_stars([scenes.draw_any(run.rng, outlined=True) for _ in range(_OUTLINED)], 6)
    drawn += [scene for scene in drawn if scenes.contrast(scene) < _FAINT]
    if not getattr(unet, "peft_config", None):
        rank = _LORA_RANK
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=_LORA_LAYERS))
    for name, weight in unet.named_parameters():
        weight.requires_grad_("lora_" in name)
    learn(run, [unet], _caption_loss(run.rng, unet, parts, drawn))


def train_edit(run: Run, parts: Parts, drawing: Network, unet: Network | None = None) -> Network:
    """Return a denoiser that edits, begun from one that draws; one that is given learns on."""
    rng = run.rng
    unet = _widened(drawing) if unet is None else unet
    unet.to(parts.device).train()
    pairs = [_pair(rng) for _ in range(_PAIRS)]
    before = parts.latents([pair[0] for pair in pairs])
    after = parts.latents([pair[1] for pair in pairs])
    noise = networks.scheduler()

    def loss(_step: int) -> torch.Tensor:
        chosen = rng.choices(range(len(pairs)), k=_BATCH)
        texts, seen = [pairs[each][2] for each in chosen], before[chosen].clone()
        for place in range(_BATCH):
            # Without the text, without the picture, without both: a twentieth of the time each.
            without = rng.randrange(20)
            if without in (0, 1):
                texts[place] = ""
            if without in (1, 2):
                seen[place] = 0
        return _velocity_loss(unet, noise, after[chosen], parts.states(texts), seen)

    learn(run, [unet], loss)
    return unet.eval()


def _with_stars(drawn: list[Scene], times: int) -> list[Scene]:
    """Return the scenes, those of stars so many times: nothing else has such thin arms."""
    return drawn + (times - 1) * [scene for scene in drawn if scene.shape == "star"]


def _caption_loss(
    rng: random.Random, unet: Network, parts: Parts, drawn: Sequence[Scene]
) -> Callable[[int], torch.Tensor]:
    latents = parts.latents(drawn)
    noise = networks.scheduler()

    def loss(_step: int) -> torch.Tensor:
        chosen = rng.choices(range(len(drawn)), k=_BATCH)
        texts = [
            "" if rng.random() < _DROPPED else captions.caption(rng, drawn[each]).text
            for each in chosen
        ]
        return _velocity_loss(unet, noise, latents[chosen], parts.states(texts))

    return loss


def _velocity_loss(
    unet: Network,
    scheduler: Network,
    latents: torch.Tensor,
    states: torch.Tensor,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    noise = torch.randn(latents.shape).to(latents.device)
    # Spread over the batch, which makes the loss of one step say more. More of them are late, where
    # the noise leaves open what is drawn.
    share = ((torch.arange(len(latents)) + torch.rand(len(latents))) / len(latents)).sqrt()
    times = (share * scheduler.config.num_train_timesteps).long().to(latents.device)
    given = scheduler.add_noise(latents, noise, times)
    if seen is not None:
        given = torch.cat([given, seen], dim=1)
    wrong = unet(given, times, states).sample - scheduler.get_velocity(latents, noise, times)
    value: torch.Tensor = (_weights(latents) * wrong.square()).mean()
    return value


def _weights(latents: torch.Tensor) -> torch.Tensor:
    """Return how much each place counts: most where colours meet, which is where shapes differ.

    That is a few places in a hundred; counted alike, they would be learnt long after the colours.
    """
    mean = functional.avg_pool2d(latents, 3, 1, 1, count_include_pad=False)
    square = functional.avg_pool2d(latents.square(), 3, 1, 1, count_include_pad=False)
    change = (square - mean.square()).mean(dim=1, keepdim=True)
    return 1 + _EDGES * change / change.amax(dim=(1, 2, 3), keepdim=True)


def _widened(drawing: Network) -> Network:
    """Return a copy with twice the inputs, which at first takes the new ones for a hint.

    What it would draw then is the input picture, from which edits are not far.
    """
    unet = networks.unet(2 * networks.LATENT_CHANNELS)
    weights = drawing.state_dict()
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, _HINT * first], dim=1)
    unet.load_state_dict(weights)
    return unet


def _pair(rng: random.Random) -> tuple[Scene, Scene, str]:
    while True:
        before = scenes.draw_any(rng)
        said, after = captions.instruction(rng, before, rng.choice(captions.EDITS))
        if not scenes.is_held_out(after.shape, after.colour, after.background):
            return before, after, said.text
