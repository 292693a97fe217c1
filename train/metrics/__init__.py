"""What a run tells while it runs: journal, clocks, throughput.

Nothing here decides anything.
"""
