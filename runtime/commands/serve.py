"""`medsam2 serve`, or `python -m runtime.serve`: segment in a browser, or from 3D Slicer, napari or ITK-SNAP."""

from __future__ import annotations

import argparse
import getpass
import logging
import math
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.bundle.bundle import Bundle, open_bundle
from runtime.cohort.review import Review
from runtime.commands.options import add_model_options, parse_bytes
from runtime.commands.segment_options import (
    add_dicom_options,
    add_reading_options,
    segmentation_of,
)
from runtime.devices.machine import memory_bytes, share_heap
from runtime.errors import InputError
from runtime.files.scratch import scratch_folder
from runtime.io.dicom.query import parse_choice
from runtime.io.dicom.seg import Algorithm
from runtime.io.read import read_volume
from runtime.io.volumes.volume import Volume
from runtime.model import load
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser
from runtime.serve.banner import Address, banner, page_of
from runtime.serve.browser import show
from runtime.serve.hosts import Hosts, host_of, is_name
from runtime.serve.keys import VARIABLE, read_key
from runtime.serve.limits import Limits

if TYPE_CHECKING:
    from runtime.serve.service import Service

log = logging.getLogger("runtime.serve")

PORT = 1527  # nnInteractive's
SHARE = 3  # of the machine's memory, encoded slices and voxels may each take one part of so many
MOST_SESSIONS = 200  # times the connections of each, and files may be open
CONNECTIONS = 4  # of a session: requests, signs of life, the page's events, and one to spare
DEFAULTS = Limits()
EXAMPLES = f"""examples:
  medsam2 serve --open ct.nii.gz --browser          # the embedded model, a scan, and a page to segment it in
  medsam2 serve                                     # the same without a scan: open one in the page, or in a viewer
  medsam2 serve --cohort out/ --browser             # what medsam2 cohort has made: accept, correct, reject
  medsam2 serve --bundle medsam2 --max-sessions 2 --max-memory 4G
  medsam2 serve --host 0.0.0.0 --key-file key.txt   # for viewers on other machines
  ssh -L 1527:localhost:1527 gpu-machine            # or without opening a port: paste http://localhost:1527

One port speaks nnInteractive's protocol (3D Slicer, napari, nninteractive-client) and ITK-SNAP's. What to paste where
is printed when it is up; docs/viewers.md has three steps for each viewer. The first line on stdout is JSON with the
address. Traffic is not encrypted: across a network that you do not trust, use a tunnel.

Memory: half of --max-memory holds encoded slices, half the sessions' images, masks and uploads under way; where an
image does not fit, the sessions whose users have been away longest end. Steps of undo have what those leave: where they
take more, the session that has most forgets its oldest, but never the latest.

The key may be in {VARIABLE} instead of a file.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser(
        "medsam2 serve", "Segment in a browser, or from 3D Slicer, napari or ITK-SNAP.", EXAMPLES
    )
    add_model_options(
        p,
        max_memory="for encoded slices, images, masks and undo; default: two thirds of the machine's",
    )
    add = p.add_argument_group("server").add_argument
    add("--open", metavar="FILE", help="volume file or DICOM folder that the page begins with")
    add_reading_options(add)
    add(
        "--cohort", type=Path, metavar="OUT", help="of medsam2 cohort, whose masks the page reviews"
    )
    add("--reviewer", metavar="NAME", help="who decides (default: this user)")
    add("--browser", action="store_true", help="show the page in this machine's browser")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=PORT, help="0 takes a free one (%(default)s)")
    add("--key-file", metavar="F", help="holds the key that clients have to show")
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="further name by which clients call this server, such as behind a proxy",
    )
    add(
        "--max-sessions",
        type=int,
        metavar="N",
        default=DEFAULTS.max_sessions,
        help="open at once (%(default)s)",
    )
    add(
        "--max-image",
        type=parse_bytes,
        metavar="BYTES",
        default=DEFAULTS.max_image_bytes,
        help="of one image's voxels (2G)",
    )
    add(
        "--idle-timeout",
        type=float,
        metavar="S",
        default=DEFAULTS.idle_s,
        help="after which a session that nobody uses ends (%(default)g)",
    )
    add_dicom_options(p)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command until a signal ends it."""
    args = parser().parse_args(arguments)
    _check(args)
    key = read_key(args.key_file)
    share_heap()
    logging.getLogger("numexpr.utils").setLevel(logging.WARNING)  # blosc2's, which tells of threads
    from runtime.serve.server import listen

    listener = listen(args.host, args.port, key is not None)
    with listener, scratch_folder() as folder:
        host, port = listener.getsockname()[:2]
        bundle = open_bundle(args.bundle)
        opened = None
        if args.open is not None:
            opened = read_volume(args.open, parse_choice(args.series), args.affine)
        service = _service(args, bundle, key, host, opened)
        address = Address(host, port, _own_names())

        def started() -> None:
            print_result({"url": address.urls[0], "host": host, "port": port})
            print(
                banner(address, key, sys.stderr.isatty(), _limits_in_words(args)), file=sys.stderr
            )
            if args.browser:
                show(page_of(address, key), folder)

        try:
            service.server(started).run([listener])
        finally:
            service.close()


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for numbers that make no server."""
    if args.open is not None and args.cohort is not None:
        raise InputError("--open is a scan to begin with, --cohort many to review; wanted one")
    if args.open is None and (args.series or args.affine):
        raise InputError("--series and --affine say how the scan of --open is read; name one")
    if not 0 <= args.port < 2**16:
        raise InputError(f"found --port {args.port}; wanted 0 to {2**16 - 1}")
    if not 1 <= args.max_sessions <= MOST_SESSIONS:
        raise InputError(f"found --max-sessions {args.max_sessions}; wanted 1 to {MOST_SESSIONS}")
    if not 0 < args.idle_timeout < math.inf:
        raise InputError(
            f"found --idle-timeout {args.idle_timeout:g}; wanted seconds, above 0 and not infinite, such as 1e9"
        )
    if args.max_image < 2**20:
        raise InputError(f"found --max-image {args.max_image} bytes; wanted 1M or more")
    if args.max_memory is not None and args.max_memory < 2**20:
        raise InputError(f"found --max-memory {args.max_memory} bytes; wanted 1M or more")
    if wrong := [name for name in args.allow_host if not is_name(host_of(name))]:
        raise InputError(
            f"found --allow-host {wrong[0]!r}; wanted a name or an address, such as proxy.example, without http:// and "
            "path, and in ASCII as browsers send it (xn--...)"
        )


def _service(
    args: argparse.Namespace, bundle: Bundle, key: str | None, host: str, opened: Volume | None
) -> Service:
    from runtime.serve.app import Door
    from runtime.serve.service import Service, Shown

    half = args.max_memory // 2 if args.max_memory else int(memory_bytes() / SHARE)
    limits = Limits(
        max_sessions=args.max_sessions,
        max_connections=max(DEFAULTS.max_connections, CONNECTIONS * args.max_sessions),
        max_image_bytes=args.max_image,
        max_volume_bytes=half,
        idle_s=args.idle_timeout,
    )
    model = load(bundle, args.backend, args.threads, args.hint)
    model.check_memory()
    door = Door(Hosts(host, args.allow_host), key)
    caution = bundle.caution and bundle.caution.partition(";")[0].capitalize()
    review = None if args.cohort is None else Review(args.cohort)
    made_by = Algorithm(
        model=bundle.model.name,
        serial=bundle.fingerprint,
        parameters={"backend": model.backend.description},
    )
    segmentation = replace(segmentation_of(args), algorithm=made_by)
    reviewer = args.reviewer or user()
    shown = Shown(bundle.model.name, caution, opened, review, reviewer, segmentation)
    return Service(model, limits, door, bundle.licence, half, shown=shown)


def user() -> str:
    """Who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return ""


def _limits_in_words(args: argparse.Namespace) -> str:
    half = args.max_memory / 2 if args.max_memory else memory_bytes() / SHARE
    return (
        f"up to {args.max_sessions} sessions, images of {args.max_image / 2**20:.0f} MiB, {half / 2**20:.0f} MiB of "
        f"encoded slices and as much of images, masks and undo; sessions end after {args.idle_timeout:g} s without use"
    )


def _own_names() -> tuple[str, ...]:
    """By which others may reach this machine: the address that its packets leave from, and its name."""
    names = [socket.gethostname()]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(
            ("192.0.2.1", 9)
        )  # nothing is sent; the address is for documentation (RFC 5737)
        names.insert(0, probe.getsockname()[0])
    return tuple(names)
