"""Numbers that the design rests on: `python -m bench` measures them all and prints one table."""
