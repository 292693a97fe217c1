"""One record each: bytes to arrays and back, the regions and phrases in it, and pictures to pixels.

No LMDB, no folders: a record does not know where it is kept.
"""
