"""Foreign APIs on the same jobs: each a thin adapter, with its own words and error bodies."""
