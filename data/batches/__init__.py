"""What is read in which order: pairs, negatives, plans, reading processes, collation into batches.

No formats: stores give arrays.
"""
