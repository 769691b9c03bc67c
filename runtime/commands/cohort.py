"""`medsam2 cohort`: many studies by many workers, and a row for each of their objects."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from runtime.bundle.bundle import Bundle, open_bundle
from runtime.cohort.alone import alone
from runtime.cohort.driver import PATIENCE_S, CohortDriver
from runtime.cohort.feed import Feed
from runtime.cohort.find import find_studies, searched_studies
from runtime.cohort.ledger import FILE_NAME, Ledger, said
from runtime.cohort.progress import CohortProgress
from runtime.cohort.ray_cluster import ray_cluster
from runtime.cohort.ray_executor import RayExecutor, Share
from runtime.cohort.report import write_report
from runtime.cohort.results import FILE_NAME as RESULTS
from runtime.cohort.results import write_results
from runtime.cohort.review import Review, summary
from runtime.cohort.settings import Settings
from runtime.cohort.table import read_table
from runtime.cohort.worker import Silence
from runtime.commands import cohort_export
from runtime.commands.cohort_options import parser
from runtime.commands.segment_options import check_stop, is_dicom_told, job_options
from runtime.devices.machine import logical_cores
from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.files.atomic import check_folder
from runtime.files.scratch import remove_abandoned
from runtime.io.dicom.query import parse_choice, parse_query
from runtime.io.dicom.web import DicomWeb
from runtime.jobs.job import Job
from runtime.process.counted import counted
from runtime.process.packages import DISTRIBUTION
from runtime.process.streams import print_result, sayable
from runtime.version import __version__

log = logging.getLogger("runtime")

EXPORT = "export"
DONE_AGAIN = (
    "decision of review is about a study that is done again",
    "decisions of review are about studies that are done again",
)
AGAIN = "; --retry does those that have failed again"
PREVIEW_TILES = 4  # of a study's preview: one row


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == [EXPORT]:
        cohort_export.main(words[1:])
        return
    p = parser()
    args = p.parse_args(words)
    check_stop(p, args)
    if args.dicomweb and bool(args.table) == bool(args.search):
        p.error(
            "--dicomweb needs a --table, whose column study has the UIDs of series, or --search"
        )
    if args.search and not args.dicomweb:
        p.error("--search is for --dicomweb")
    if args.series and args.dicomweb:
        p.error("--series is for -i; of a server, --search or the --table says which")
    if args.limit is not None and not args.search:
        p.error("--limit is for --search")
    if args.store and not (args.dicomweb and args.format == "dicom-seg"):
        p.error("--store is for --dicomweb and --format dicom-seg")
    if is_dicom_told(args) and args.format != "dicom-seg":
        p.error("--code, --category, --seg-type and --keep-empty-frames are for --format dicom-seg")
    _check(args)
    bundle = open_bundle(args.bundle)
    settings = _settings(args, bundle)
    with alone(args.output), said(args.output):
        ledger, feed = Ledger(args.output), None
        try:
            feed = _meet(args, ledger, settings)
            try:
                _work(args, ledger, settings, feed)
            except BaseException:
                _tell_so_far(args, ledger, settings, bundle)
                raise
            print_result(_tell(args, ledger, settings, bundle))
        finally:
            if feed:
                feed.close()
            ledger.close()


def _check(args: argparse.Namespace) -> None:
    """Raise InputError or MissingInput for what makes no cohort."""
    if args.dicomweb:
        DicomWeb(args.dicomweb)
    elif not args.input.is_dir():
        raise MissingInput(f"{args.input} is not a folder; wanted one with studies below it")
    if args.search:
        parse_query(args.search)
    for name in ("workers", "threads", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"found --{name} {value}; wanted 1 or more")
    share = args.gpus_per_worker
    if not 0 <= share < math.inf or (share > 1 and share % 1):
        raise InputError(
            f"found --gpus-per-worker {share:g}; wanted 0 to 1, such as 0.5, or a whole number"
        )
    if args.time_limit is not None and not args.time_limit > 0:
        raise InputError(f"found --time-limit {args.time_limit:g}; wanted seconds, above 0")
    output = os.path.realpath(args.output)
    source = None if args.dicomweb else os.path.realpath(args.input)
    if source and os.path.commonpath([output, source]) == source:
        raise InputError(
            f"{args.output} lies within {args.input}: its masks would be studies; choose another folder"
        )
    check_folder(args.output)
    if (
        args.output.is_dir()
        and any(not path.name.startswith(".") for path in args.output.iterdir())
        and not (args.output / FILE_NAME).is_file()
    ):
        raise InputError(
            f"{args.output} is not empty and no cohort's ({FILE_NAME}); name a new folder"
        )
    import pyarrow.parquet  # noqa: F401 (before hours of work, not after them)

    if args.format == "dicom-seg":
        import highdicom  # noqa: F401


def _settings(args: argparse.Namespace, bundle: Bundle) -> Settings:
    job = Job(
        input=args.output.resolve() if args.dicomweb else args.input.resolve(),
        output=args.output.resolve(),
        calls=[],
        preview_tiles=PREVIEW_TILES,
        series=parse_choice(args.series),
        bundle=None if args.bundle is None else str(Path(args.bundle).resolve()),
        **job_options(args),
    )
    draws = not args.no_previews
    return Settings(job, bundle.fingerprint, args.format, draws, args.dicomweb, args.store)


def _num_cores(args: argparse.Namespace) -> int:
    """Of the Ray that is started here: those of this machine, or more where more workers are asked for."""
    return max(logical_cores(), int(args.threads) * int(args.workers or 1))


def _num_gpus(args: argparse.Namespace) -> int | None:
    """Those that the workers need that are asked for; else those that Ray finds, by which workers are counted."""
    share = Share(args.threads, args.gpus_per_worker)
    return share.num_gpus(args.workers or 0) if args.workers or not share.gpus else None


def _meet(args: argparse.Namespace, ledger: Ledger, settings: Settings) -> Feed | None:
    """Find the studies, and which of them are to be done; of a search, until there is one. Returns the rest of it."""
    root = None if args.dicomweb else args.input.resolve()
    source = str(sayable(str(root or args.dicomweb.rstrip("/"))))
    before = ledger.about("input")
    if before not in (None, source, f"{source}/") and ledger.counts().total:
        raise InputError(
            f"{args.output} is the cohort of {before}; name another output for {source}"
        )
    ledger.note("input", source)
    ledger.note("window", args.window)
    ledger.note("affine", args.affine or "")
    ledger.note("series", "\n".join(args.series or ()))
    feed, decided = None, len(Review(args.output).latest())
    if args.search:
        found = DicomWeb(args.dicomweb).search(parse_query(args.search), args.limit)
        feed = Feed(searched_studies(found), ledger, settings.key, args.retry)
    else:
        studies = (
            find_studies(root, settings.job.series)
            if root and not args.table
            else read_table(args.table, root)
        )
        ledger.meet(studies, settings.key, args.retry)
    if gone := ledger.check_masks():
        log.warning("%s gone or changed; made again", counted(gone, "mask"))
    if (undone := decided - len(Review(args.output).latest())) > 0:
        log.warning(
            "%s, since files, settings or bundle have changed; where masks come out otherwise, nobody has decided",
            counted(undone, *DONE_AGAIN),
        )
    while feed and not feed.is_over and not ledger.counts().waiting:
        feed.take_in(PATIENCE_S)
    if feed and not ledger.counts().waiting:
        feed.check()
    if not ledger.counts().total:
        if args.search:
            raise InputError(f"no series of {args.dicomweb} is {' and '.join(args.search)}")
        if args.table:
            raise InputError(f"{args.table} has no row; wanted one for each prompt")
        raise InputError(
            f"{args.input} holds no study; wanted volumes or folders of DICOM slices below it"
        )
    return feed


def _work(args: argparse.Namespace, ledger: Ledger, settings: Settings, feed: Feed | None) -> None:
    """Do what waits, and what is found meanwhile."""
    counts = ledger.counts()
    if counts.waiting:
        log.info("%d of %s to do", counts.waiting, counted(counts.total, "study", "studies"))
        # Ray prints what befalls its workers, of which the driver tells in its own words.
        with (
            redirect_stdout(Silence()),
            _swept(),
            ray_cluster(args.address, _num_cores(args), _num_gpus(args)) as ray,
        ):
            _work_on(ray, args, ledger, settings, feed)
    else:
        log.info("nothing to do: %s%s", counts, AGAIN * bool(counts.failed))


@contextmanager
def _swept() -> Iterator[None]:
    """Afterwards, what workers had fetched that were ended at it is gone from this machine."""
    try:
        yield
    finally:
        with suppress(OSError):
            remove_abandoned()


def _work_on(
    ray: Any,
    args: argparse.Namespace,
    ledger: Ledger,
    settings: Settings,
    feed: Feed | None,
) -> None:
    counts, is_searching = ledger.counts(), feed is not None and not feed.is_over
    share = Share(args.threads, args.gpus_per_worker)
    num_workers = args.workers or share.num_workers(ray.cluster_resources())
    num_workers = num_workers if is_searching else min(num_workers, counts.waiting)
    log.info("%s at work", counted(num_workers, "worker"))
    executor = RayExecutor(ray, settings, args.output.resolve(), num_workers, share)
    try:
        with (
            logging_redirect_tqdm(),
            CohortProgress(counts, num_workers, is_searching) as progress,
        ):
            CohortDriver(ledger, executor, settings, progress, args.time_limit, feed=feed).run()
    finally:
        executor.close()


def _tell_so_far(
    args: argparse.Namespace, ledger: Ledger, settings: Settings, bundle: Bundle
) -> None:
    """The same of a run that ends early, whose own error is the one to raise."""
    try:
        _tell(args, ledger, settings, bundle)
    except Sam2Error as error:
        log.warning("%s", error)
    else:
        log.info("ended early: %s; the same command goes on", ledger.counts())


def _tell(
    args: argparse.Namespace, ledger: Ledger, settings: Settings, bundle: Bundle
) -> dict[str, Any]:
    """Write table and page. Returns where they are, and how far the cohort is."""
    counts = ledger.counts()
    results = args.output / RESULTS
    decisions = Review(args.output).latest()
    num_rows = write_results(results, ledger.rows(), decisions)
    about = [
        f"Studies of {ledger.about('input')}",
        f"{bundle.model.name} at {bundle.model.image_size} pixels, weights {bundle.licence}, "
        f"{DISTRIBUTION} {__version__}, settings {settings.key[:12]}",
    ]
    report = write_report(
        args.output, ledger.rows("doubt"), counts, about, bundle.caution, summary(decisions)
    )
    return {
        "output": str(args.output),
        "studies": {"done": counts.done, "failed": counts.failed, "waiting": counts.waiting},
        "rows": num_rows,
        "results": str(results),
        "report": str(report),
    }
