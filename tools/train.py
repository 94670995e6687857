"""Trains the demo models and writes them where the catalog expects them: `python -m tools.train`.

Owns the order of the stages, how long each takes, and the files between them; what each one learns
is its own module's. Every stage writes its part into the working folder, so that one can be run
again without those before it. The same seed, threads and libraries give the same weights.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from tools import ship
from tools.learning import Run, Schedule
from tools.networks import Network
from tools.tokens import tokenizer
from tools.train_denoisers import Parts, train_edit, train_style, train_text_to_image
from tools.train_text import train_text
from tools.train_vae import polish, train_vae

STAGES = {
    "text": Schedule(steps=700, rate=2e-3, orthogonal=True),
    "vae": Schedule(steps=1200, rate=3e-3, average=0.98),
    "draw": Schedule(steps=1000, rate=2.5e-3, average=0.99, orthogonal=True),
    "polish": Schedule(steps=300, rate=2e-3, average=0.98),
    "edit": Schedule(steps=1000, rate=2.5e-3, average=0.99, orthogonal=True),
    "style": Schedule(steps=1600, rate=4e-3, average=0.98, decay=0.0),
}


def main() -> None:
    """Run the stages that were asked for, in their order, and then write the models."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if stage not in options.stages:
            continue
        started = time.monotonic()
        _run(stage, options)
        print(f"{stage}: {time.monotonic() - started:.0f} s", flush=True)
    if options.target:
        ship.write(options.work, options.target)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo models.")
    parser.add_argument("--work", type=Path, default=Path("build/shapes"))
    parser.add_argument("--target", type=Path, help="where to write the finished models, if at all")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--steps", type=int, help="steps of each stage, instead of its own")
    parser.add_argument("--more", action="store_true", help="go on from the weights of before")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _run(stage: str, options: argparse.Namespace) -> None:
    work, device = options.work, options.device
    plan = STAGES[stage]
    if options.steps:
        plan = replace(plan, steps=options.steps)
    torch.manual_seed(options.seed)
    run = Run(stage, plan, random.Random(options.seed), work / f"{stage}.checkpoint")
    if stage == "text":
        words = tokenizer()
        words.save_pretrained(work / "tokenizer")
        train_text(run, words, device).save_pretrained(work / "text_encoder")
    elif stage == "vae":
        before = _vae(work) if options.more else None
        vae = train_vae(run, device, before)
        vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
    elif stage == "polish":
        vae = polish(run, _vae(work), device)
        vae.to(memory_format=torch.contiguous_format).save_pretrained(work / "vae")
    elif stage == "draw":
        before = _unet(work / "draw") if options.more else None
        train_text_to_image(run, _parts(work, device), before).save_pretrained(work / "draw")
    elif stage == "edit":
        before = _unet(work / "edit") if options.more else None
        unet = train_edit(run, _parts(work, device), _unet(work / "draw"), before)
        unet.save_pretrained(work / "edit")
    else:
        unet = _unet(work / "draw").to(device)
        if options.more:
            ship.load_style(unet, work / "style")
        train_style(run, _parts(work, device), unet)
        ship.write_style(unet, work / "style")


def _parts(work: Path, device: str) -> Parts:
    return Parts(
        vae=_vae(work).to(device).eval(),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder").to(device).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        device=device,
    )


def _vae(work: Path) -> Network:
    return diffusers.AutoencoderKL.from_pretrained(work / "vae")


def _unet(folder: Path) -> Network:
    return diffusers.UNet2DConditionModel.from_pretrained(folder)


if __name__ == "__main__":
    main()
