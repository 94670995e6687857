"""The pages that are made from the code: settings, errors, the HTTP API; and lists of pages.

Each module makes one page and knows nothing of files; `__main__` writes them into docs, and a
test says when one is out of date.
"""
