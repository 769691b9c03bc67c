"""What people are told when the server is up: what to paste into which viewer."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

ANY = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens.

    Attributes:
        host: address it is bound to.
        port: that it got.
        names: by which others reach it, for an address that means all.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()

    @property
    def urls(self) -> list[str]:
        """One for each name, without a key."""
        names = self.names if self.host in ANY and self.names else (self.host,)
        return [f"http://{_in_url(name)}:{self.port}" for name in names]


def banner(address: Address, key: str | None, shows_key: bool, limits: str) -> str:
    """For people.

    Args:
        address: of the server.
        key: that clients have to show, if any.
        shows_key: whether it may be written out: into a terminal, not into a log.
        limits: in words.
    """
    shown = "" if key is None else key if shows_key else "KEY"
    url = address.urls[0]
    name = url.removeprefix("http://").removesuffix(f":{address.port}")
    lines = [
        "",
        f"  page         {page_of(address, shown)}",
        f"  3D Slicer    nnInteractive's extension, remote server: {url}{f', API key: {shown}' if shown else ''}",
        f"  napari       nnInteractive's plugin, remote: {url}{f', API key: {shown}' if shown else ''}",
        f"  ITK-SNAP     remote server: {f'snap:{shown}@' if shown else ''}{name}, port {address.port}",
        "",
        f"  {limits}",
    ]
    if len(address.urls) > 1:
        lines.append(f"  other addresses: {', '.join(address.urls[1:])}")
    if key is None:
        lines.append("  for programs on this machine only; every user of it can reach the server")
    elif not shows_key:
        lines.append("  KEY is what the key file holds")
    return "\n".join([*lines, "  end with Ctrl-C", ""])


def page_of(address: Address, key: str | None) -> str:
    """The page's address; a key stands behind the #, which browsers send to nobody."""
    return f"{address.urls[0]}/{f'#key={quote(key)}' if key else ''}"


def _in_url(name: str) -> str:
    return f"[{name}]" if ":" in name else name
