"""Command lines: flags made from the sections, parsed, and checked against what the program reads.

What a setting means stands in the sections; no command line reads a store or builds a model.
"""
