"""What programs share: parsers that tell in one line, exit codes, work over processes, tables.

Nothing of one program alone.
"""
