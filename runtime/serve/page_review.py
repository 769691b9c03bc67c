"""The page's review of a cohort: its queue, studies opened with the masks that they have, and what is decided of each.

A decision changes no mask of the cohort. Accepting a mask that was changed here keeps what it has become beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from runtime.cohort.export import decided_mask, object_masks, opened
from runtime.cohort.review import MOST_AT_ONCE, Decision, Review
from runtime.errors import InputError
from runtime.files.strict_json import Integer, Number, Object, OneOf, Text
from runtime.io.volumes.volume import Volume
from runtime.io.write import write_mask
from runtime.prompts.prompts import MAX_OBJECT_ID
from runtime.serve.page_answers import json_answer
from runtime.serve.page_session import PageSession
from runtime.serve.page_work import error_words
from runtime.serve.serving import read_json
from runtime.serve.shown_volume import ShownVolume

AT_ONCE = 50  # studies of the queue, unless another number is asked for
LONGEST_S = 1e6  # that somebody may look at a study
OPEN = Object({"study": Text()})
DECIDE = Object(
    {
        "study": Text(),
        "object": Integer(1, MAX_OBJECT_ID),
        "shown": Integer(0, MAX_OBJECT_ID),
        "key": Text(),
        "verdict": OneOf(("accepted", "rejected")),
        "seconds": Number(0, LONGEST_S),
        "clicks": Integer(0, 1 << 20),
    },
    {"known": OneOf(("", "accepted", "corrected", "rejected"))},
)


class DecidedMeanwhile(InputError):
    """Somebody else has decided what is on this page as it was before.

    Args:
        decision: theirs.
    """

    def __init__(self, decision: Decision) -> None:
        self.verdict = decision.verdict
        super().__init__(
            f"{decision.who or 'somebody'} has {self.verdict} object {decision.object_id} of {decision.study} "
            "meanwhile; decide again if you see it otherwise"
        )


class ReviewHost(Protocol):
    """What review asks of the page."""

    def session_of(self, request: Request) -> PageSession:
        """The session of a request."""

    async def show(self, request: Request, page: PageSession, shown: ShownVolume) -> None:
        """Give it a volume, if there is memory for it."""

    def add_object(self, request: Request, page: PageSession, name: str) -> dict[str, Any]:
        """Give it another object, likewise."""

    def described(self, page: PageSession) -> dict[str, Any]:
        """What the page is told."""


class PageReview:
    """The routes of review.

    Args:
        review: of the cohort.
        reviewer: who decides, as decisions say.
        host: the page.
    """

    def __init__(self, review: Review, reviewer: str, host: ReviewHost) -> None:
        self._review, self._reviewer, self._host = review, reviewer, host

    @property
    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Method, path and handler."""
        return [
            ("GET", "/api/review", self._queue),
            ("POST", "/api/review/open", self._open),
            ("POST", "/api/review/decide", self._decide),
        ]

    async def _queue(self, request: Request) -> Response:
        self._host.session_of(request)
        start, count = (
            _number(request, name, usual) for name, usual in (("start", 0), ("count", AT_ONCE))
        )
        told = await to_thread.run_sync(self._review.queue, start, min(count, MOST_AT_ONCE))
        return json_answer({**told, "reviewer": self._reviewer})

    async def _open(self, request: Request) -> Response:
        page = self._host.session_of(request)
        name = (await read_json(request, OPEN))["study"]
        study = await to_thread.run_sync(self._review.study, name)
        shown, masks = await to_thread.run_sync(self._shown, study, name)
        await self._host.show(request, page, shown)
        pairs = []
        for number, object_id in enumerate(masks):
            if number == 0:
                opened = page.change_object(page.objects()[0]["id"], f"Object {object_id}", None)
            else:
                opened = self._host.add_object(request, page, f"Object {object_id}")
            pairs.append([object_id, opened["id"]])
            if masks[object_id].any():
                mask = masks[object_id].astype(np.uint8)
                await to_thread.run_sync(page.seed, opened["id"], mask)
        told = {"study": name, "key": study["key"], "objects": pairs}
        return json_answer({**self._host.described(page), "reviewing": told})

    async def _decide(self, request: Request) -> Response:
        page = self._host.session_of(request)
        body = await read_json(request, DECIDE)
        try:
            return json_answer(await to_thread.run_sync(self._decided, page, body))
        except DecidedMeanwhile as other:
            return json_answer({**error_words(other), "verdict": other.verdict}, 409)

    def _decided(self, page: PageSession, body: dict[str, Any]) -> dict[str, Any]:
        name, object_id, verdict = body["study"], body["object"], body["verdict"]
        study = self._review.study(name)
        if study["key"] != body["key"]:
            raise InputError(f"the mask of {name} has been made anew meanwhile; open it again")
        before = self._review.latest().get((name, object_id))
        if before and body.get("known", before.verdict) != before.verdict:
            raise DecidedMeanwhile(before)
        corrected, dice = "", None
        if verdict == "accepted":
            corrected, dice = self._correction(page, study, body)
        said = self._review.record(
            Decision(
                name,
                object_id,
                "corrected" if corrected else verdict,
                self._reviewer,
                study["key"],
                float(body["seconds"]),
                body["clicks"],
                corrected,
                dice,
            )
        )
        return {"study": name, "object": object_id, "verdict": said.verdict}

    def _correction(
        self, page: PageSession, study: dict[str, Any], body: dict[str, Any]
    ) -> tuple[str, float]:
        """Where the mask on the page is kept, below the cohort's folder, and the Dice of the cohort's own with it.

        Nowhere, and 1, if it is the cohort's own.
        """
        if page.is_busy_with(body["shown"]):
            raise InputError(
                f"object {body['object']} of {study['name']} is still followed; wait for its end or stop it first"
            )
        mask = page.mask(body["shown"]) != 0
        with opened(self._review, study) as (_, volume):
            return self._kept(study, body["object"], volume, mask)

    def _kept(
        self, study: dict[str, Any], object_id: int, volume: Volume, mask: NDArray[np.bool_]
    ) -> tuple[str, float]:
        """The same for a mask of a volume that is there."""
        name = study["name"]
        if mask.shape != volume.shape:
            raise InputError(f"{name} is not what is open here; open it before deciding")
        latest = self._review.latest()
        own = object_masks(self._review.folder, study, volume).get(object_id)
        dice = _dice(mask, np.zeros_like(mask) if own is None else own)
        before = latest.get((name, object_id))
        known = decided_mask(self._review.folder, study, volume, latest).get(object_id)
        if known is not None and np.array_equal(mask, known):
            return before.corrected if before else "", dice
        corrected = self._review.next_correction(name, object_id)
        path = self._review.folder / corrected
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, mask.astype(np.uint8), volume)
        return corrected, dice

    def _shown(
        self, study: dict[str, Any], name: str
    ) -> tuple[ShownVolume, dict[int, NDArray[np.bool_]]]:
        """A study and its masks, read while its files are there: segmentations refer to them."""
        with opened(self._review, study) as (_, volume):
            masks = decided_mask(self._review.folder, study, volume, self._review.latest())
            return ShownVolume.of(volume, name), masks


def _number(request: Request, name: str, usual: int) -> int:
    text = request.query_params.get(name, str(usual))
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"found {name} {text[:20]!r}; wanted a number")
    return int(text)


def _dice(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """1 if both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return 2 * np.count_nonzero(mask & other) / total if total else 1.0
