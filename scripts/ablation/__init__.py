"""Grids of runs: their rows, one supervised process each, and the table of what they gave.

No training in this process.
"""
