"""A certificate: what was found when a back end was compared with a reference, for one bundle on one machine.

It is JSON. `export.verify` puts those against PyTorch into the bundle's folder; `runtime.commands.certify` puts those
against ONNX Runtime into this user's cache, since they hold for one machine. Which back end "auto" opens is decided
here, by them alone: one that lies in the bundle can only refuse a back end, since bundles come from others.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernels.kernel import FOLDER
from runtime.backends import BACKENDS, DEFAULT
from runtime.bundle.bundle import Bundle
from runtime.devices.machine import instruction_sets
from runtime.errors import Sam2Error
from runtime.files.atomic import write_text
from runtime.files.cache import cache_folder, is_this_users
from runtime.files.plain_file import read_plain
from runtime.files.strict_json import Boolean, Fault, Number, Object, parse
from runtime.version import __version__

log = logging.getLogger("runtime")

Certificate = dict[str, Any]
HOW_TO_CERTIFY = "medsam2 certify"
MAX_BYTES = 2**20  # of a certificate; they have about 10 KB
MOST_TIMES = 1e6  # as fast as the reference
SOURCE_SUFFIXES = (".py", ".cu", ".cuh")  # of the kernels' sources
# What is read of one beside its stamp, which is compared with what holds here.
RULE = Object(
    required={"passed": Boolean()},
    optional={"times_reference": Number(0, MOST_TIMES)},
    others=True,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, and why it."""

    backend: str
    reason: str


def stamp(bundle: Bundle, backend: str) -> Certificate:
    """What a certificate is valid for: these graphs, this back end, versions and sources, this machine.

    ONNX Runtime is in it whatever the back end: it is the reference, and runs those graphs that another one leaves it.
    """
    row = BACKENDS[backend]
    return {
        "backend": backend,
        "package": row.package,
        "reference_package": BACKENDS[DEFAULT].package,
        "runtime": __version__,
        "kernels": kernels_digest(),
        "fingerprint": bundle.fingerprint,
        "weights_kind": bundle.weights["kind"],  # which decides how much is asked
        "machine": row.machine,
        "instructions": ", ".join(instruction_sets()),
    }


@cache
def kernels_digest() -> str:
    """SHA-256 over the sources of `kernels`, names and contents, in the order of names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in FOLDER.iterdir() if path.suffix in SOURCE_SUFFIXES):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def keep(certificate: Certificate, bundle: Bundle) -> Path | None:
    """Write a certificate into the cache, in place of an older one; None where nothing is kept."""
    folder = _folder(bundle)
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        return write(certificate, folder / f"{certificate['backend']}.json")
    except (OSError, Sam2Error) as error:
        log.warning("the certificate is not kept: %s", error)
        return None


def write(certificate: Certificate, path: Path) -> Path:
    """Write a certificate, whole or not at all."""
    return write_text(path, json.dumps(certificate, indent=1, allow_nan=False) + "\n")


def choose(bundle: Bundle) -> Choice:
    """The fastest back end that is certified for a bundle on this machine; ONNX Runtime where none is.

    Speed is what the certificate measured beside its own reference, in one run. A back end that failed against either
    reference is not taken.
    """
    speeds, refused = {}, set()
    for certificate, is_own in _valid(bundle):
        if not certificate["passed"]:
            refused.add(certificate["backend"])
        elif is_own and "times_reference" in certificate:
            speeds[certificate["backend"]] = float(certificate["times_reference"])
    speeds = {name: times for name, times in speeds.items() if name not in refused}
    best = max(speeds, key=lambda name: speeds[name], default=DEFAULT)
    if speeds.get(best, 0.0) > 1:
        return Choice(best, f"certified on this machine, {speeds[best]:.2f} times as fast as ort")
    if speeds:
        return Choice(DEFAULT, f"faster here than {', '.join(sorted(speeds))}")
    if refused:
        return Choice(DEFAULT, f"{', '.join(sorted(refused))} failed the certificate")
    return Choice(DEFAULT, f"no other is certified on this machine ({HOW_TO_CERTIFY} does it)")


def _valid(bundle: Bundle) -> Iterator[tuple[Certificate, bool]]:
    """Certificates that hold here, and whether this user made them; anything else that lies there is passed over."""
    folder = _folder(bundle)
    for name in BACKENDS:
        paths = [(bundle.path / f"certificate-{name}.json", False)]
        if folder is not None:
            paths.append((folder / f"{name}.json", True))
        for path, is_own in paths:
            try:
                if is_own and not is_this_users(path.stat()):
                    continue
                certificate = _read(path)
            except (OSError, ValueError):
                continue
            if certificate.items() >= stamp(bundle, name).items():
                yield certificate, is_own


def _read(path: Path) -> Certificate:
    """A certificate of the right form. Raises OSError or ValueError for anything else."""
    data = read_plain(path, MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise Fault(f"{path} is larger than {MAX_BYTES} bytes")
    certificate: Certificate = parse(data)
    RULE.check(certificate, "")
    return certificate


def _folder(bundle: Bundle) -> Path | None:
    """Folder of this bundle's certificates; it need not be there yet."""
    certificates = cache_folder("certificates")
    return None if certificates is None else certificates / bundle.fingerprint
