"""The reference pages that are made from the code: settings, errors, and the HTTP API.

Each module makes one page and knows nothing of files; `__main__` writes them into docs/reference,
and a test says when one is out of date.
"""
