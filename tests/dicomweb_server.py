"""A DICOMweb server of a few lines: QIDO of series, WADO of series, STOW; what it holds is in memory."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

BOUNDARY = "part-of-a-series"
TYPE = 'multipart/related; type="application/dicom"; boundary='


class DicomWebServer(ThreadingHTTPServer):
    """Holds files by study and series.

    Attributes:
        series: (study, series) to the bytes of its files.
        stored: bytes that were stored.
        token: that has to be shown, if any.
        refuses: whether nothing is stored.
        loses: whether what is taken is lost, and the answer does not say so in a way that can be read.
        num_busy: how many times more it is too busy to store.
        conflicts: whether what is there already is refused as a conflict.
        most: images of a series after which an answer breaks off, without its end.
        status: of every answer to a question; 0 is the right one.
        answer: of every question, in place of the right one, if any.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.series: dict[tuple[str, str], list[bytes]] = {}
        self.stored: list[bytes] = []
        self.token: str | None = None
        self.refuses = self.loses = self.conflicts = False
        self.num_busy = self.status = 0
        self.most: int | None = None
        self.answer: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"

    def hold(self, folder: Path) -> tuple[str, str]:
        """Take the files of a series; returns its UIDs."""
        files = [path.read_bytes() for path in sorted(folder.iterdir())]
        first = pydicom.dcmread(io.BytesIO(files[0]), stop_before_pixels=True)
        uids = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
        self.series[uids] = files
        return uids


class _Handler(BaseHTTPRequestHandler):
    server: DicomWebServer

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        address = urlsplit(self.path)
        words = address.path.strip("/").split("/")[1:]
        if self.server.status or self.server.answer is not None:
            self._answer(
                self.server.status or 200, self.server.answer or b"", "application/dicom+json"
            )
        elif words[-1:] == ["series"]:
            wanted = parse_qs(address.query).get("SeriesInstanceUID", [""])[0]
            told = [_told(uids, files) for uids, files in self.server.series.items()]
            told = [entry for entry in told if entry["0020000E"]["Value"] == [wanted]]
            self._answer(200, json.dumps(told).encode(), "application/dicom+json")
        elif words[-1:] == ["instances"]:
            wanted = parse_qs(address.query).get("SOPInstanceUID", [""])[0]
            told = [{"00080018": {"vr": "UI", "Value": [wanted]}}] * self._holds(wanted)
            self._answer(200, json.dumps(told).encode(), "application/dicom+json")
        elif len(words) == 4 and (files := self.server.series.get((words[1], words[3]))):
            head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            body = b"".join(head + file + b"\r\n" for file in files[: self.server.most])
            end = f"--{BOUNDARY}--".encode() if self.server.most is None else b""
            self._answer(200, body + end, TYPE + BOUNDARY)
        else:
            self._answer(404, b"", "text/plain")

    def do_POST(self) -> None:
        if not self._is_allowed():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.num_busy:
            self.server.num_busy -= 1
            self._answer(503, b"", "text/plain")
            return
        if self.server.refuses:
            self._answer(507, b"", "text/plain")
            return
        file = body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")]
        if self.server.conflicts and self._holds(_instance(file)):
            self._answer(409, b"", "text/plain")
            return
        if not self.server.loses:
            self.server.stored.append(file)
        self._answer(200, b"{}", "application/dicom+json")

    def _holds(self, instance: str) -> bool:
        return instance in map(_instance, self.server.stored)

    def _is_allowed(self) -> bool:
        shown = self.headers.get("Authorization")
        if self.server.token is None or shown == f"Bearer {self.server.token}":
            return True
        self._answer(401, b"", "text/plain")
        return False

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nobody reads it."""


def _told(uids: tuple[str, str], files: list[bytes]) -> dict[str, dict[str, Any]]:
    study, series = uids
    return {
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00201209": {"vr": "IS", "Value": [len(files)]},
    }


def _instance(file: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True).SOPInstanceUID)


@contextmanager
def dicomweb_server() -> Iterator[DicomWebServer]:
    """A server that listens while the block runs."""
    server = DicomWebServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
