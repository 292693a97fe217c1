"""What is looked at before ranks are started: horovodrun passes over wrong values, or stumbles far from their flags."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil

from config.errors import ConfigError
from config.paths import inspect_path
from config.wording import pluralise

LOCAL = "127.0.0.1"
HOST = re.compile(r"[\w.-]+:[1-9]\d*")
LINE = re.compile(r"\s*[\w.-]+\s+slots\s*=\s*[1-9]\d*\s*")
NUMBERS = {"start_timeout": "--start-timeout", "slots": "--slots-per-host"}
ELASTIC = {"min_num_proc": "--min-np", "max_num_proc": "--max-np"}


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Let argparse raise ConfigError where it would print how horovodrun is used, which is a page, and leave.

    What Horovod raises of values and of its file of settings becomes one too.
    """

    def error(_: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ConfigError(f"{message}; horovodrun --help lists the flags, the rank's program comes after them")

    theirs = argparse.ArgumentParser.error
    setattr(argparse.ArgumentParser, "error", error)  # noqa: B010 (Horovod makes the parser itself)
    try:
        yield
    except ConfigError:
        raise
    except OSError as problem:
        raise ConfigError(f"--config-file {problem.filename}: cannot be read ({problem.strerror})") from problem
    except ValueError as problem:
        raise ConfigError(f"{problem}; horovodrun --help lists the flags") from problem
    finally:
        setattr(argparse.ArgumentParser, "error", theirs)  # noqa: B010


def check(args: Any, local_only: bool) -> None:
    """Check the values of horovodrun's flags.

    Args:
        local_only: all ranks are started on this host.

    Raises:
        ConfigError: some cannot be; all of them are told.
    """
    wrong = [*_numbers(args), *_hosts(args), *_interfaces(args.nics or (), addresses(), local_only), *_files(args),
             *_program(args.command or (), local_only)]
    if wrong:
        raise ConfigError("; ".join(wrong))


def addresses() -> dict[str, list[str]]:
    """The addresses of each network interface of this host."""
    return {name: [one.address for one in found] for name, found in psutil.net_if_addrs().items()}


def is_local_only(args: Any) -> bool:
    """Whether all ranks are started on this host: no other one is named, and none can join."""
    if args.hostfile or args.host_discovery_script:
        return False
    return all(host.partition(":")[0] in ("localhost", LOCAL) for host in (args.hosts or "localhost").split(","))


def _numbers(args: Any) -> Iterator[str]:
    for name, flag in NUMBERS.items():
        value = getattr(args, name)
        if value is not None and value < 1:
            yield f"{flag} {value}: should be 1 or more"
    ranks = args.num_proc
    if ranks is not None and ranks < 1:
        yield f"-np {ranks}: at least one rank is needed"
        return
    for name, flag in ELASTIC.items():
        value = getattr(args, name)
        if value is not None and value < 1:
            yield f"{flag} {value}: should be 1 or more"
        elif value is not None and ranks and (value > ranks if flag == "--min-np" else value < ranks):
            yield f"{flag} {value} {'is above' if value > ranks else 'is below'} -np {ranks}, with which the run begins"


def _hosts(args: Any) -> Iterator[str]:
    hosts = [host.strip() for host in args.hosts.split(",")] if args.hosts else []
    odd = [host for host in hosts if not HOST.fullmatch(host)]
    for host in odd:
        yield f"-H {args.hosts}: {host or 'an empty name'} should be HOST:RANKS, as in -H node1:8,node2:8"
    room = 0 if odd else sum(int(host.rpartition(":")[2]) for host in hosts)
    if room and args.num_proc and room < args.num_proc and not args.min_num_proc:
        ranks = pluralise(room, "rank")
        yield f"-np {args.num_proc}: -H {args.hosts} has room for {ranks}; lower -np or name more hosts"
    if args.hostfile:
        yield from _hostfile(Path(args.hostfile))
    if args.host_discovery_script:
        script = Path(args.host_discovery_script)
        if not script.is_file():
            yield f"--host-discovery-script {script}: there is no such file"
        elif not os.access(script, os.X_OK):
            yield f"--host-discovery-script {script}: is not executable; chmod +x it"


def _hostfile(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        yield f"--hostfile {path}: cannot be read ({getattr(error, 'strerror', None) or 'it is no UTF-8 text'})"
        return
    if not lines:
        yield f"--hostfile {path}: is empty; write a line for each host, such as node1 slots=8"
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            yield f"--hostfile {path}, line {number}: should be a host and its ranks, such as node1 slots=8"


def _files(args: Any) -> Iterator[str]:
    if args.ssh_identity_file and not Path(args.ssh_identity_file).is_file():
        yield f"--ssh-identity-file {args.ssh_identity_file}: there is no such file"
    if args.output_filename:
        folder = Path(args.output_filename).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            yield f"--output-filename {args.output_filename}: no folder can be made in {there}; name another"


def _program(command: Sequence[str], local_only: bool) -> Iterator[str]:
    """What ranks are started from, as far as it can be seen here."""
    if not command or not local_only:
        return
    if shutil.which(command[0]) is None:
        yield f"{command[0]}: there is no such program; give it after the flags: python train/itm_hn.py --config ..."
    script = command[1] if len(command) > 1 else ""
    if script.endswith(".py") and not Path(script).is_file():
        yield f"{script}: {inspect_path(Path(script)).clause}; name the program that ranks are to run"


def _interfaces(names: Sequence[str], there: Mapping[str, Sequence[str]], local_only: bool) -> Iterator[str]:
    told = f"this host has {', '.join(sorted(there))}"
    unknown = sorted(name for name in names if name not in there)
    if unknown:
        yield f"--network-interface {','.join(unknown)}: there is no such interface; {told}"
        return
    if names and local_only and not any(LOCAL in there[name] for name in names):
        loop = next((name for name, found in there.items() if LOCAL in found), "")
        remedy = f"name {loop}, or leave the flag out" if loop else "leave the flag out"
        yield (f"--network-interface {','.join(sorted(names))}: all ranks are on this host and meet at {LOCAL}, which "
               f"is of another interface; {remedy} ({told})")
