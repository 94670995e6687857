"""The statuses that workers and schedulers end with on purpose, for whoever restarts them.

`pixeltoll.exits` has those of all commands, with what they mean.
"""

from __future__ import annotations

# sysexits.h EX_TEMPFAIL: restart me.
STALLED = 75
# EX_NOPERM: a restart does not help.
NOT_REGISTERED = 77
