"""Series of a DICOMweb server (QIDO-RS, WADO-RS) and objects to it (STOW-RS), through dicomweb-client."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.errors import InputError, MissingInput, Sam2Error
from runtime.files.plain_text import variable
from runtime.io.dicom.query import SERIES, STUDY, unasked, value_of
from runtime.process.packages import DISTRIBUTION
from runtime.process.shortage import is_out_of_memory

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient
    from pydicom.dataset import Dataset
    from requests import HTTPError

TOKEN = "MEDSAM2_DICOMWEB_TOKEN"
"""Environment variable with a bearer token; users and passwords are taken from ~/.netrc."""
AS_STORED = (("application/dicom", "*"),)  # frames are decoded here, not there
TIMEOUT_S = (10, 300)  # to connect, and between two pieces of an answer
PAGE = 100  # series of a search that are asked for at a time
MOST_SEGMENTATIONS = 100  # of a study, that are looked through
NUM_IMAGES = "00201209"  # Number of Series Related Instances
_UID = re.compile(r"[0-9][0-9.]{0,63}")
# What servers that know no search within a study answer to one.
_NOT_ASKED_FOR = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)


class DicomWeb:
    """A DICOMweb server.

    Args:
        url: of its services, such as https://pacs.example/dicom-web.

    Raises InputError for what is no such address, and ModuleNotFoundError without dicomweb-client.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"found the DICOMweb address {url!r}; wanted https://HOST/PATH")
        if parts.username or parts.password:
            raise InputError(
                f"a password in an address is seen by others; put it into ~/.netrc, or a token into {TOKEN}"
            )
        self.url = url.rstrip("/")
        self._client, self._sender = _client(self.url), _client(self.url)
        # What is sent in pieces is gone when a busy server asks for it again, and nothing at all would be stored.
        self._sender.set_chunk_size(sys.maxsize)

    def fetch(self, address: str, folder: Path) -> None:
        """Write the images of a series into an empty folder, each as a file, named by its UID.

        `address` is STUDY/SERIES, the UIDs of both, or the series' alone, whose study is then asked for. Raises
        InputError for what is no UID, MissingInput for a series that is not there, Sam2Error where the server does not
        answer, or gives fewer images than it says it has, or others.
        """
        with self._said(f"series {address[-64:]}"):
            study, series = self._uids(address)
            names = set()
            for dataset in self._client.iter_series(study, series, media_types=AS_STORED):
                if (given := str(dataset.get("SeriesInstanceUID", ""))) != series:
                    raise Sam2Error(
                        f"{self.url} gave an image of the series {given[:64]!r} for {series}; see the server's log"
                    )
                names.add(_save(dataset, folder))
            # An answer that breaks off between two images looks whole.
            wanted = self._num_images(study, series) if names else 0
        if not names:
            raise MissingInput(f"{self.url} has no images of the series {series}")
        if len(names) < wanted:
            raise Sam2Error(
                f"{self.url} gave {len(names)} of the {wanted} images that it has of the series {series}; try again "
                "later, or see the server's log"
            )

    def search(self, query: Mapping[str, str], most: int | None = None) -> Iterator[list[str]]:
        """The series that a query finds, as STUDY/SERIES, page by page; each page is asked for when it is wanted.

        Args:
            query: as `runtime.io.dicom.query.parse_query` gives it.
            most: series; None is all of them.

        Raises Sam2Error where the server does not answer, answers what was not asked, or gives one page for ever.
        """
        seen, before = 0, [""]
        while most is None or seen < most:
            limit = PAGE if most is None else min(PAGE, most - seen)
            with self._said("a search"):
                found = self._page(query, limit, seen)
            is_again = found == before
            if not found or (is_again and len(found) != limit):  # without pages, that was all
                return
            if is_again:
                raise Sam2Error(
                    f"{self.url} gives the same series again and again; search for fewer than {PAGE}"
                )
            yield found if most is None else found[: most - seen]
            seen, before = seen + len(found), found

    def _page(self, query: Mapping[str, str], limit: int, offset: int) -> list[str]:
        """A page of a search, as STUDY/SERIES. Raises Sam2Error for what was not searched for, or has no UIDs."""
        found = []
        for entry in self._client.search_for_series(
            search_filters=dict(query), fields=list(query), limit=limit, offset=offset
        ):
            if wrong := unasked(entry, query):
                raise Sam2Error(
                    f"{self.url} cannot search for this: it answers {wrong}; leave that out, or name series in a table"
                )
            uids = value_of(entry, STUDY), value_of(entry, SERIES)
            if not all(map(_UID.fullmatch, uids)):
                raise Sam2Error(f"{self.url} finds a series without UIDs; see the server's log")
            found.append("/".join(uids))
        return found

    def fetch_segmentation(self, address: str, folder: Path) -> Path:
        """Write the DICOM Segmentation of a series, which somebody else has made, into an empty folder; its path.

        Raises MissingInput where there is none, InputError for several, and what `fetch` raises.
        """
        paths: list[Path] = []
        with self._said(f"segmentations of series {address[-64:]}"):
            study, series = self._uids(address)
            drawn = self._client.search_for_series(study, search_filters={"Modality": "SEG"})
            for entry in drawn[:MOST_SEGMENTATIONS]:
                images = self._client.iter_series(
                    study, value_of(entry, SERIES), media_types=AS_STORED
                )
                paths += [_save(image, folder) for image in images if _is_asking(image, series)]
        if len(paths) > 1:
            raise InputError(
                f"{self.url} has {len(paths)} segmentations of series {series}; wanted one; name the series in a "
                "table, with its prompts"
            )
        if not paths:
            raise MissingInput(
                f"{self.url} has no segmentation of series {series} that would say what to segment; draw one, or name "
                "the series in a table, with its prompts"
            )
        return paths[0]

    def store(self, path: Path) -> None:
        """Store a DICOM file; one that the server has already is stored. Raises Sam2Error where it is not taken."""
        import pydicom
        import requests

        dataset = pydicom.dcmread(path)
        with self._said(path.name):
            try:
                answer = self._sender.store_instances([dataset])
            except requests.HTTPError as error:
                # What servers say of an object that they have differs; whether they have it does not.
                if _status(error) == HTTPStatus.CONFLICT and self._has(dataset):
                    return
                raise
            taken = answer.get("ReferencedSOPSequence") or ()
            uids = {str(item.get("ReferencedSOPInstanceUID")) for item in taken}
            # Not every answer says so that it can be read.
            if str(dataset.SOPInstanceUID) not in uids and not self._has(dataset):
                failed = answer.get("FailedSOPSequence") or [{}]
                raise Sam2Error(
                    f"{self.url} did not take {path.name} (reason {failed[0].get('FailureReason', 'unknown')})"
                )

    def _has(self, dataset: Dataset) -> bool:
        """Whether the server has an object."""
        study, series = str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)
        wanted = {"SOPInstanceUID": str(dataset.SOPInstanceUID)}
        return bool(self._client.search_for_instances(study, series, search_filters=wanted))

    def _num_images(self, study: str, series: str) -> int:
        """How many images the server has of a series; 0 where it does not say."""
        import requests

        try:
            found = self._client.search_for_series(
                study, fields=[NUM_IMAGES], search_filters={"SeriesInstanceUID": series}
            )
        except requests.HTTPError as error:
            if _status(error) in _NOT_ASKED_FOR:
                return 0
            raise
        own = (entry for entry in found if value_of(entry, SERIES) == series)
        return max((int(value_of(entry, NUM_IMAGES) or 0) for entry in own), default=0)

    def _uids(self, address: str) -> tuple[str, str]:
        """Of a study and a series. Raises as `fetch` does."""
        *before, series = address.split("/")
        if len(before) > 1 or not all(map(_UID.fullmatch, (*before, series))):
            raise InputError(
                f"found the series {address!r}; wanted STUDY-UID/SERIES-UID or SERIES-UID"
            )
        return before[0] if before else self._study_of(series), series

    def _study_of(self, series: str) -> str:
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": series})
        studies = {value_of(entry, STUDY) for entry in found if STUDY in entry}
        if len(studies) != 1:
            raise MissingInput(
                f"{self.url} knows {len(studies)} studies with the series {series}; wanted one"
            )
        return studies.pop()

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """What the server or the network refuses, or answers that is no DICOMweb, in our words."""
        import requests
        from retrying import RetryError

        try:
            yield
        except requests.HTTPError as error:
            status = _status(error)
            kind = MissingInput if status in (404, 410) else Sam2Error
            raise kind(f"{self.url} answered {status} for {what}; {_advice(status)}") from error
        except RetryError as error:  # the client has tried again where that is worth while
            status = getattr(error.last_attempt.value, "status_code", 0)
            raise Sam2Error(
                f"{self.url} answered {status} for {what}, {error.last_attempt.attempt_number} times; try again later"
            ) from error
        except (requests.RequestException, ConnectionError) as error:
            if isinstance(error, requests.exceptions.InvalidJSONError):
                raise self._strange(what, error) from error
            reason = str(getattr([*error.args, error][0], "reason", error)).rpartition("): ")[2]
            raise Sam2Error(
                f"{self.url} does not answer for {what}: {reason}; see to the address, or try again later"
            ) from error
        except (Sam2Error, OSError, MemoryError):
            raise
        except Exception as error:  # the client and pydicom raise anything for other answers
            if is_out_of_memory(error):
                raise
            raise self._strange(what, error) from error

    def _strange(self, what: str, error: Exception) -> Sam2Error:
        lines = str(error).splitlines() or [""]
        return Sam2Error(
            f"{self.url} answers for {what} what is no DICOMweb ({type(error).__name__}: {lines[0][:200]}); is the "
            "address right? See the server's log"
        )


def _is_asking(dataset: Dataset, series: str) -> bool:
    """Whether a segmentation is of a series, and none of ours."""
    items = dataset.get("ReferencedSeriesSequence", ())
    of = {str(item.get("SeriesInstanceUID")) for item in items}
    return series in of and dataset.get("Manufacturer") != DISTRIBUTION


def _save(dataset: Dataset, folder: Path) -> Path:
    """Write an object; names do not depend on the order in which the server gives them. Raises InputError."""
    uid = str(dataset.get("SOPInstanceUID", ""))
    if not _UID.fullmatch(uid):
        raise InputError(f"found an image with the SOP Instance UID {uid[:64]!r}; wanted a UID")
    path = folder / f"{uid}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def _status(error: HTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"show who you are in ~/.netrc or {TOKEN}"
    return "is the address right?" if status in (404, 410) else "see the server's log"


def _client(url: str) -> DICOMwebClient:
    import requests
    from dicomweb_client.api import DICOMwebClient

    class Session(requests.Session):
        """One that leaves wildcards as they are, which addresses allow: Orthanc's plugin 1.7 decodes no escapes."""

        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            prepared = super().prepare_request(request)
            prepared.url = (prepared.url or "").replace("%2A", "*").replace("%3F", "?")
            return prepared

    session = Session()
    if token := variable(TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
        session.trust_env = False  # or ~/.netrc would take its place
    return DICOMwebClient(url, session=session, timeout=TIMEOUT_S)
