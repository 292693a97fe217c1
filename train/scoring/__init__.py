"""All pairs to a matrix of scores, and recalls of a matrix.

No config and no run: a matcher, two splits and a device are enough.
"""
