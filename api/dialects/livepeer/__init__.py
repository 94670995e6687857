"""The API of a Livepeer AI gateway: `/text-to-image` and `/image-to-image`."""
