"""Programs for people, and the rooms behind them.

A program reads its arguments and calls; what it calls stands in a room.
"""
