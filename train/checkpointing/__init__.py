"""Checkpoint folders: written whole or not at all, verified, listed, and turned into published formats.

No process group, no training: a checkpoint is tensors and JSON.
"""
