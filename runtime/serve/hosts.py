"""Which names this server answers to, and which pages may speak to it.

A browser lets any page on the internet send requests to this machine. Where the page's own name has been made to point
here (DNS rebinding) it may read the answers too: such a request carries that name as its Host.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def host_of(header: str) -> str:
    """The name in a Host header, in small letters, without its port and an IPv6 address's brackets."""
    text = header.strip().lower()
    if match := re.fullmatch(r"\[([0-9a-f:.]+)\](:\d*)?", text):
        return match[1]
    name, colon, port = text.rpartition(":")
    return (name if colon and port.isdigit() else text).rstrip(".")


def is_name(name: str) -> bool:
    """Whether a Host header can hold this: a name in ASCII, or an address."""
    return is_address(name) or re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) is not None


def is_address(name: str) -> bool:
    """Whether a name is an address, which nobody can make to point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine alone."""
    if is_address(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


class Hosts:
    """The names that a server on `bound` answers to.

    On loopback those of loopback; elsewhere any address and this machine's own names too. Ports are not looked at, so
    that tunnels and containers may map them.

    Args:
        bound: address it listens on.
        further: names it has elsewhere, such as behind a proxy.
    """

    def __init__(self, bound: str, further: Iterable[str] = ()) -> None:
        self._is_local = is_loopback(bound)
        own = () if self._is_local else (socket.gethostname().lower(),)
        self._names = {*LOOPBACK_NAMES, *own, *(host_of(name) for name in further)}

    def answers_to(self, name: str) -> bool:
        """Whether a request for this name is meant for this server."""
        if name in self._names or is_loopback(name):
            return True
        return not self._is_local and is_address(name)
