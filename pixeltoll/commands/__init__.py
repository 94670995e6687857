"""What an operator does to the books of a stack: one module for each kind of thing.

Each does what the admin route of the same name does, straight on the database.
"""
