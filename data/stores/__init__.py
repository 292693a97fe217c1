"""Store folders: LMDB, their seals and side files, image and text stores read and written.

No batches, and no foreign formats: those are read once, in `data/source`.
"""
