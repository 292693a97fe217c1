"""Generated scenes: a grammar of captions, pictures of them, and a detector for their objects.

No file of another data set.
"""
