"""Print pinned packages of pyproject.toml, one a line, as `pip install -r` takes them.

    python scripts/pins.py              what a run needs
    python scripts/pins.py build        the group of that name: what Horovod is built with
    python scripts/pins.py --only torch one package of the first

The set-up and the image install single packages before others, and neither may carry a second copy of a version.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def pins(group: str, only: str) -> list[str]:
    """The requirements of a group ('' = the run's own), or the one of them that is about package `only`.

    Raises:
        LookupError: no such group, or no such package in it; says which there are.
    """
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    if group not in groups:
        raise LookupError(f"no group {group} in {PROJECT.name}; there are {', '.join(filter(None, groups))}")
    named = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in groups[group]}
    if only and only not in named:
        raise LookupError(f"{PROJECT.name} pins no {only}; it pins {', '.join(named)}")
    return [named[only]] if only else list(named.values())


def main() -> int:
    parser = argparse.ArgumentParser(description="Print pinned packages, one a line.")
    parser.add_argument("group", nargs="?", default="", help="a group of optional dependencies; without: the run's own")
    parser.add_argument("--only", default="", metavar="PACKAGE", help="this package's line alone")
    args = parser.parse_args()
    try:
        print("\n".join(pins(args.group, args.only)))
    except LookupError as error:
        print(f"pins: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
