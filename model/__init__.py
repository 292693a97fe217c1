"""Matchers, one file for each system, found by the name of the file; objectives lie in `model/objective`.

Nothing here reads a file of data or knows a process group.
"""
