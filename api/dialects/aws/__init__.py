"""The task API of Stable Diffusion on AWS: `/v1alpha2` and `/v1alpha1`."""
