"""Building blocks that several systems share, or that would crowd the file of one.

No whole system, and nothing that is found by name.
"""
