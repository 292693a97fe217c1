"""What build_imgdb.py and build_txtdb.py do with one kind of input: pictures, precomputed files, rows of features.

Formats are read in `data/source` and written in `data/stores`.
"""
