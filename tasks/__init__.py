"""Floor 1: jobs, the model catalog, queues, storage and inference. Knows money only through `ledger`, and no HTTP."""
