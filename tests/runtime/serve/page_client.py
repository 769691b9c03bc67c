"""A page without a browser: requests, events, and files in one body."""

from __future__ import annotations

import http.client
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """A page without a browser."""

    port: int
    token: str = ""
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"X-Lease-Token": self.token, **named})
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def claim(self) -> Any:
        state = self.ask("POST", "/api/session", {}).json
        self.token = state["token"]
        return state

    def listen(self) -> Stream:
        return Stream(self.port, self.token)

    def send(self, *files: Path, names: list[str] | None = None) -> Answer:
        return self.ask("POST", "/api/volume", packed(*files, names=names))


class Stream:
    """Events as they come."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", "/api/events", headers={"X-Lease-Token": token})
        self._answer = self._connection.getresponse()
        assert self._answer.getheader("content-type") == "text/event-stream; charset=utf-8"
        assert self._answer.getheader("x-accel-buffering") == "no"  # a proxy passes each on
        assert self.next()[0] == "hello"

    def next(self) -> tuple[str, dict[str, Any]]:
        name, data = "", {}
        while True:
            line = self._answer.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and name:
                return name, data

    def until(self, *names: str) -> list[tuple[str, dict[str, Any]]]:
        """Events up to the first of these names, that one included."""
        events = [self.next()]
        while events[-1][0] not in names:
            events.append(self.next())
        return events

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def packed(*files: Path, names: list[str] | None = None) -> bytes:
    listed = [
        {"name": name, "size": file.stat().st_size}
        for file, name in zip(files, names or [file.name for file in files], strict=True)
    ]
    head = json.dumps({"files": listed}).encode()
    return struct.pack("<I", len(head)) + head + b"".join(file.read_bytes() for file in files)
