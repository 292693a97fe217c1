"""train/liveness/connection.py: messages over sockets that nobody waits for, and who is let in."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from tests.processes import wait_until
from train.liveness.connection import (
    MOST,
    Connection,
    address_of_interface,
    addresses_of_host,
    connect,
    has_token,
    listen,
)

Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection and the bare socket at its other end."""
    listener = listen(everywhere=False, backlog=1)
    other = socket.create_connection(listener.getsockname())
    connection = Connection(listener.accept()[0])
    yield connection, other
    for one in (listener, other, connection):
        one.close()


def read(connection: Connection) -> list[object]:
    """What comes next."""
    found: list[object] = []
    wait_until(lambda: bool(found.extend(connection.read()) or found) or not connection.is_open, 5)
    return found


def test_a_message_is_read_once_it_is_whole(pair: Pair) -> None:
    connection, other = pair
    assert connection.read() == []
    other.sendall(b'{"a": 1}\n{"b": ')
    assert read(connection) == [{"a": 1}]
    other.sendall(b'"\xc3\xa9"}\n')
    assert read(connection) == [{"b": "é"}]
    assert connection.is_open


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n", b"x" * (MOST + 1)])
def test_what_is_no_message_ends_the_connection(sent: bytes, pair: Pair) -> None:
    connection, other = pair
    other.sendall(sent)
    assert read(connection) == []
    assert not connection.is_open


def test_the_end_of_the_other_side_is_seen(pair: Pair) -> None:
    connection, other = pair
    other.sendall(b'{"bye": 0}\n')
    other.close()
    assert read(connection) == [{"bye": 0}]
    assert read(connection) == []
    assert not connection.is_open
    connection.send({"a": 1})
    connection.send({"a": 1})
    assert not connection.is_open


def test_nobody_waits_for_who_does_not_read_and_nothing_is_lost(pair: Pair) -> None:
    connection, other = pair
    message = {"text": "x" * 50000}
    for _ in range(100):
        connection.send(message)
    assert connection.is_open
    got = b""
    while got.count(b"\n") < 101:
        connection.send({})  # whatever comes next takes along what was kept
        got += other.recv(1 << 22)
    assert got.startswith(b"\n".join([json.dumps(message).encode()] * 100) + b"\n{}\n")


def test_a_forked_process_holds_no_connection_open(pair: Pair) -> None:
    connection, other = pair
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    connection.close()
    other.settimeout(5)
    assert other.recv(1) == b"", "the child, which still lives, would hold it"
    os.write(go[1], b"x")
    os.waitpid(child, 0)


def test_a_rank_looks_for_rank_0_where_it_may_be_and_takes_no_other_for_it() -> None:
    stranger = listen(everywhere=False, backlog=4)
    assert connect([], stranger.getsockname()[1], {}) is None
    caller = socket.socket()
    caller.bind(("127.0.0.1", 0))
    assert connect(["127.0.0.1"], caller.getsockname()[1], {"token": "t"}) is None, "nobody listens there"
    stranger.close()
    caller.close()


def test_a_greeting_is_known_by_its_token() -> None:
    assert has_token({"token": "abc"}, "abc")
    assert not has_token({"token": "abd"}, "abc")
    assert not has_token({}, "abc")
    assert not has_token({"token": None}, "abc")


def test_a_hosts_addresses_are_those_that_others_can_use() -> None:
    assert address_of_interface("lo") == "127.0.0.1"
    assert address_of_interface("nosuch0") == ""
    found = addresses_of_host(["127.0.0.1", "no-such-host.invalid"], {"HOROVOD_GLOO_IFACE": "lo,nosuch0"})
    assert not any(one.startswith("127.") for one in found)
    assert "" not in found
