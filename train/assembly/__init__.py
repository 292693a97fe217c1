"""From a config to the parts of a run: stores opened, matcher, objective, optimizer, precision, weights.

No loops: parts are made here, and work elsewhere.
"""
