"""Livepeer's own files as its documentation has them, verbatim."""

from __future__ import annotations

# As docs.livepeer.org/ai/orchestrators/models-config has it.
DOCUMENTED_MODELS = """[
  {
    "pipeline": "text-to-image",
    "model_id": "SG161222/RealVisXL_V4.0_Lightning",
    "price_per_unit": 4768371
  },
  {
    "pipeline": "upscale",
    "model_id": "stabilityai/stable-diffusion-x4-upscaler",
    "price_per_unit": "0.5e-2USD",
    "warm": true,
    "optimization_flags": {
      "SFAST": true,
      "DEEPCACHE": false
    }
  },
  {
    "pipeline": "audio-to-text",
    "model_id": "openai/whisper-large-v3",
    "price_per_unit": 12882811,
    "pixels_per_unit": 1,
    "currency": "USD",
    "url": "<CONTAINER_URL>:<PORT>",
    "token": "<OPTIONAL_BEARER_TOKEN>",
    "capacity": 1
  }
]
"""

# As the gateway's guide to on-chain use has it.
DOCUMENTED_PRICES = """{
  "capabilities_prices": [
    { "pipeline": "image-to-image", "model_id": "ByteDance/SDXL-Lightning", \
"price_per_unit": 1700000, "pixels_per_unit": 1 },
    { "pipeline": "text-to-image", "model_id": "stabilityai/stable-diffusion-3-medium-diffusers", \
"price_per_unit": 4768371, "pixels_per_unit": 1 },
    { "pipeline": "upscale", "model_id": "default", "price_per_unit": 4768371 },
    { "pipeline": "image-to-video", "price_per_unit": 3390842, "pixels_per_unit": 1 },
    { "pipeline": "audio-to-text", "price_per_unit": 12882811 }
  ]
}
"""
