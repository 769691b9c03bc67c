"""An Orthanc with its DICOMweb plugin, on loopback, with a folder of its own; who uses it skips where there is none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

requests = pytest.importorskip("requests", reason="requests is not installed")

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "of images"
PATIENCE_S = 60.0


class Orthanc:
    """One that can be stopped and started again; what it holds stays.

    Args:
        folder: for its configuration, storage and log.
        token: that has to be shown in place of the user's password.
    """

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.folder, self._token = folder, token
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its DICOMweb services."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "orthanc.json").write_text(json.dumps(self._configuration()))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program(), str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        end = time.monotonic() + PATIENCE_S
        while not self._answers():
            is_alive = self._process.poll() is None
            assert is_alive and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        """End it at once, if it runs: in order it takes seconds, for what nobody wants any more."""
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def netrc(self) -> Path:
        """A file of passwords for it."""
        path = self.folder / "netrc"
        path.write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')
        return path

    def asked(self, path: str) -> list[dict[str, object]]:
        """What QIDO says."""
        answer = requests.get(f"{self.url}/{path}", auth=(USER, PASSWORD), timeout=PATIENCE_S)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found

    def _answers(self) -> bool:
        try:
            requests.get(self.url, timeout=PATIENCE_S)
        except requests.ConnectionError:
            return False
        return True

    def _configuration(self) -> dict[str, object]:
        storage = str(self.folder / "storage")
        own = {
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "SaveJobs": False,
        }
        if self._token is None:
            return own
        script = self.folder / "token.lua"
        script.write_text(
            "function IncomingHttpRequestFilter(method, uri, ip, username, headers)\n"
            f'  return headers["authorization"] == "Bearer {self._token}"\nend\n'
        )
        return own | {"AuthenticationEnabled": False, "LuaScripts": [str(script)]}


def program() -> str:
    """Where Orthanc is; skips the test where it is not."""
    found = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    if found is None or not PLUGIN.exists():
        pytest.skip(
            "no Orthanc here (apt-get install --no-install-recommends orthanc orthanc-dicomweb)"
        )
    return found


@contextmanager
def orthanc(folder: Path, token: str | None = None) -> Iterator[Orthanc]:
    """One that runs while the block does."""
    program()
    server = Orthanc(folder, token)
    server.start()
    try:
        yield server
    finally:
        server.kill()
