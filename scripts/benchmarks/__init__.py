"""Measurements side by side with peers, each a function that scripts/bench.py calls.

Peers are imported here and nowhere else.
"""
