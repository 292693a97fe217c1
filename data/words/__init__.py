"""Tokenizers and vocabularies: text to word ids.

No file formats of stores, no images.
"""
