"""What a forked process does to become one of the project's programs; it imports nothing of its own."""

from __future__ import annotations

import os
import runpy
import sys


def become(words: list[str], folder: str, environ: dict[str, str], out: str, err: str) -> None:
    """Run `python words...` as this process, in `folder`; its words go to the files `out` and `err`."""
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = words
    sys.path[0:0] = [os.path.dirname(os.path.abspath(words[0]))]
    runpy.run_path(words[0], run_name="__main__")
