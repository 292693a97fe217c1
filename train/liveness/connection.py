"""Connections between the ranks' monitors: JSON lines over sockets that never block."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import socket
import struct
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 1 << 16
"""Bytes of a line; whoever sends a longer one is no rank."""
CONNECT_S = 5.0
Message = dict[str, Any]


class Connection:
    """One connection. `is_open` is False once the other side is gone or has said what cannot be read."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self.is_open = connection, True
        self._in, self._out = b"", b""
        close_in_children(connection)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Give it to the system, or keep it for the next time where there is no room."""
        self._out += json.dumps(message).encode() + b"\n"
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:
            self.is_open = False

    def read(self) -> list[Message]:
        """What has come since the last time."""
        try:
            data = self._socket.recv(MOST)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.is_open = self.is_open and data != b""
        *lines, self._in = (self._in + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            messages = [None]
        if len(self._in) > MOST or not all(isinstance(message, dict) for message in messages):
            self.is_open, messages = False, []
        return messages

    def close(self) -> None:
        self._socket.close()


def close_in_children(connection: socket.socket) -> None:
    """Close it in every forked process: a reading worker that outlives its rank must not pass for it."""
    held = weakref.ref(connection)

    def let_go() -> None:
        there = held()
        if there is not None:
            there.close()

    os.register_at_fork(after_in_child=let_go)


def listen(everywhere: bool, backlog: int) -> socket.socket:
    """A listening socket on any free port: of this host alone, or for other hosts too."""
    listener = socket.create_server(("" if everywhere else "127.0.0.1", 0), backlog=backlog)
    listener.setblocking(False)
    close_in_children(listener)
    return listener


def connect(addresses: Iterable[str], port: int, hello: Message) -> Connection | None:
    """A connection to the first of `addresses` that knows the token in `hello`; None where none does."""
    for address in addresses:
        try:
            opened = socket.create_connection((address, port), timeout=CONNECT_S)
        except OSError:
            continue
        connection = Connection(opened)
        connection.send(hello)
        if is_welcomed(connection):
            return connection
        connection.close()
    return None


def is_welcomed(connection: Connection) -> bool:
    """Whether the other side says that it is the one that was looked for."""
    end = time.monotonic() + CONNECT_S
    while connection.is_open and time.monotonic() < end:
        if any(message.get("welcome") for message in connection.read()):
            return True
        time.sleep(0.005)
    return False


def has_token(message: Message, token: str) -> bool:
    """Whether this greeting is that of a rank of the group."""
    return hmac.compare_digest(str(message.get("token")).encode(), token.encode())


def addresses_of_host(others: Iterable[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Where the ranks on the hosts `others` may reach this one, the likeliest first.

    That is the network that Horovod was told to use, then whatever this host would reach the others from.
    """
    named = environ.get("HOROVOD_GLOO_IFACE", environ.get("GLOO_SOCKET_IFNAME", ""))
    found = [address_of_interface(name) for name in named.split(",") if name]
    found += [address_towards(name) for name in others]
    found += [address_towards(socket.gethostname())]
    return [one for one in dict.fromkeys(found) if one and not one.startswith("127.")]


def address_of_interface(name: str) -> str:
    """The address of a network interface of this host; "" where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            packed = fcntl.ioctl(asking, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return ""
    return socket.inet_ntoa(packed[20:24])


def address_towards(host: str) -> str:
    """The address that this host would be seen with by `host`; "" where the name is not known. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((host, 9))
            return str(asking.getsockname()[0])
        except OSError:
            return ""
