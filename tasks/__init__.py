"""Floor 1: jobs, the catalog, queues, storage and inference. Knows no HTTP."""
