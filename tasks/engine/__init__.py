"""Inference: everything that knows torch and diffusers. Knows no job, queue, database or price."""
