"""The routes of the native API, one file for each resource."""
