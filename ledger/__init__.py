"""Floor 0: money. Accounts, entries, offers, limits, holds, charges and refunds.

It knows no image, HTTP or queue.
"""
