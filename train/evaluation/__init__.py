"""From a run and a split to results.json.

No scoring: matrices and recalls come from `train/scoring`.
"""
