"""Floor 0: money. Accounts, entries, offers, limits, holds and charges; knows no image, HTTP or queue."""
