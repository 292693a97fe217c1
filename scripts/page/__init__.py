"""HTML pages of runs: charts, pictures, attention, drawn from what runs wrote.

Nothing is measured anew.
"""
