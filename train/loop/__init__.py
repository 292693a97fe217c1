"""The trainer: regimes, reduction of gradients, validation, what a run claims and what it guards against.

No file formats: checkpoints, stores and journals have rooms of their own.
"""
