"""The operator's command: starts and stops a whole stack, and does what the admin routes do.

It owns no rule about money or work; it calls the floors below.
"""
