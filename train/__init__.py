"""Entries, which people start, and the rooms that do the work.

An entry is a flat story of calls; what it calls stands in a room.
"""
