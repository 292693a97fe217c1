"""What a run is: typed sections, files and flags merged into one frozen Run. Imports no other floor."""

from config.assemble import load

__all__ = ["load"]
