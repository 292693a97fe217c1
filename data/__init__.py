"""Stores, the texts and images in them, and the batches that training reads.

Nothing here knows a model or a run: a matcher takes batches, and nothing else of this floor.
"""
