"""The kinds of error that are reported in one line, and the exit codes of every entry."""

from __future__ import annotations

FAILED = 1
REQUEUE = 75
INTERRUPTED = 130


class ConfigError(ValueError):
    """A flag, key or value that the run cannot be started with; one line that names the remedy."""

    exit_code = 2


class DataError(ValueError):
    """A store, record, checkpoint or file that is missing, damaged or does not fit; one line that names the remedy."""

    exit_code = 3


class Failure(RuntimeError):
    """The surroundings gave way: a full disk, a lost rank; one line that names the remedy."""

    exit_code = FAILED
