"""The review of a cohort in the page: opened with its masks, decided without changing one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime import read_volume
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome
from runtime.cohort.review import Decision, Review
from runtime.cohort.study import StudyPrompts, stamped
from runtime.serve.bits import pack, unpack
from tests.fakes import SEEING, fake_model
from tests.runtime.cohort.cohorts import DRAWN, SHAPE, make_cohort
from tests.runtime.cohort.fakes import OBJECT, SETTINGS, told
from tests.runtime.serve.browser import Served, Viewer
from tests.runtime.serve.test_page_api import Client

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

CHANGED = np.zeros(SHAPE, np.uint8)
CHANGED[1, 4:6, 3:4] = 1


@pytest.fixture
def review(tmp_path: Path) -> Review:
    return Review(make_cohort(tmp_path))


@pytest.fixture
def served(review: Review) -> Iterator[Served]:
    served = Served(fake_model(SEEING)[0], review=review)
    yield served
    served.stop()


@pytest.fixture
def client(served: Served) -> Client:
    client = Client(served.port)
    assert client.claim()["review"] is True
    return client


def decide(client: Client, reviewing: dict, number: int, verdict: str, **more: str):
    shown = dict(reviewing["objects"])[number]
    words = {"study": reviewing["study"], "object": number, "shown": shown, "key": reviewing["key"]}
    effort = {"seconds": 2.5, "clicks": 1}
    return client.ask("POST", "/api/review/decide", {**words, **effort, "verdict": verdict, **more})


def test_a_study_is_opened_with_its_masks_and_accepted(client: Client, review: Review) -> None:
    queue = client.ask("GET", "/api/review?start=0&count=9").json
    assert (queue["studies"], queue["reviewer"], queue["objects"][0]["study"]) == (2, "me", "b")
    opened = client.ask("POST", "/api/review/open", {"study": "b"}).json
    for number, shown in opened["reviewing"]["objects"]:
        got = client.ask("GET", f"/api/objects/{shown}/mask")
        np.testing.assert_array_equal(unpack(got.body, SHAPE) != 0, number == DRAWN)
    assert decide(client, opened["reviewing"], 1, "accepted").json["verdict"] == "accepted"
    assert decide(client, opened["reviewing"], 2, "rejected").json["verdict"] == "rejected"
    latest = review.latest()
    assert {key: d.verdict for key, d in latest.items()} == {
        ("b", 1): "accepted",
        ("b", 2): "rejected",
    }
    assert (latest["b", 1].who, latest["b", 1].seconds, latest["b", 1].clicks) == ("me", 2.5, 1)
    assert (latest["b", 1].dice, latest["b", 2].dice) == (1.0, None)
    assert not (review.folder / "corrections").exists()


def test_what_was_changed_is_kept_beside(client: Client, review: Review) -> None:
    mask = review.folder / "masks" / "b.nii.gz"
    before = mask.read_bytes()
    reviewing = client.ask("POST", "/api/review/open", {"study": "b"}).json["reviewing"]
    shown = dict(reviewing["objects"])[2]
    with_events = client.listen()
    client.ask("PUT", f"/api/objects/{shown}/mask", pack(CHANGED))
    with_events.until("done")
    with_events.close()
    assert decide(client, reviewing, 2, "accepted").json["verdict"] == "corrected"
    assert mask.read_bytes() == before
    kept = review.folder / review.latest()["b", 2].corrected
    np.testing.assert_array_equal(read_volume(kept).array, CHANGED)
    own = DRAWN == 2
    both = np.count_nonzero(own & (CHANGED != 0))
    dice = 2 * both / (np.count_nonzero(own) + np.count_nonzero(CHANGED))
    assert 0 < dice < 1
    assert review.latest()["b", 2].dice == pytest.approx(dice)
    again = client.ask("POST", "/api/review/open", {"study": "b"}).json["reviewing"]
    got = client.ask("GET", f"/api/objects/{dict(again['objects'])[2]}/mask")
    np.testing.assert_array_equal(unpack(got.body, SHAPE), CHANGED)
    assert decide(client, again, 2, "accepted").json["verdict"] == "corrected"  # the same one
    assert review.latest()["b", 2].dice == pytest.approx(dice)
    assert len(list(kept.parent.iterdir())) == 1


def test_what_is_still_followed_is_not_accepted(
    client: Client, served: Served, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, model = Event(), served._model
    compute = model.compute

    def slowly(graph: str, inputs: object) -> object:
        if graph == "memory_attention":
            assert goes_on.wait(60)
        return compute(graph, inputs)  # type: ignore[arg-type]

    reviewing = client.ask("POST", "/api/review/open", {"study": "b"}).json["reviewing"]
    shown, stream = dict(reviewing["objects"])[2], client.listen()
    monkeypatch.setattr(model, "compute", slowly)
    box = [[1, 2], [4, 6], [3, 5]]
    client.ask("POST", f"/api/objects/{shown}/box", {"box": box, "positive": True})
    stream.until("taken")
    answer = decide(client, reviewing, 2, "accepted")
    assert answer.status == 400 and "still followed" in answer.json["detail"]
    assert review.latest() == {}
    assert decide(client, reviewing, 1, "accepted").status == 200  # another object
    goes_on.set()
    stream.until("done")
    stream.close()
    assert decide(client, reviewing, 2, "accepted").status == 200


def test_what_does_not_fit_is_refused(client: Client, review: Review) -> None:
    assert client.ask("POST", "/api/review/open", {"study": "../b"}).status == 404
    reviewing = client.ask("POST", "/api/review/open", {"study": "a"}).json["reviewing"]
    assert decide(client, {**reviewing, "study": "nowhere"}, 1, "accepted").status == 404
    assert decide(client, reviewing, 1, "perhaps").status == 400
    assert client.ask("GET", "/api/review?start=-1").status == 400
    ledger = Ledger(review.folder)
    (number,) = (row["number"] for row in ledger.rows() if row["name"] == "a")
    ledger.settle(StudyOutcome(number, key="another", told=told()), "masks/a.nii.gz")
    ledger.close()
    answer = decide(client, reviewing, 1, "accepted")
    assert answer.status == 400
    assert "made anew" in answer.json["detail"]
    assert review.latest() == {}


def test_what_somebody_else_has_decided_meanwhile_is_told_first(
    client: Client, review: Review
) -> None:
    reviewing = client.ask("POST", "/api/review/open", {"study": "b"}).json["reviewing"]
    review.record(Decision("b", 1, "rejected", "Ann", reviewing["key"]))
    answer = decide(client, reviewing, 1, "accepted", known="")
    assert (answer.status, answer.json["verdict"]) == (409, "rejected")
    assert "Ann has rejected object 1 of b meanwhile" in answer.json["detail"]
    assert review.latest()["b", 1].who == "Ann"
    assert decide(client, reviewing, 1, "accepted", known="rejected").status == 200
    assert review.latest()["b", 1].verdict == "accepted"


def test_there_is_no_review_without_a_cohort() -> None:
    served = Served(fake_model(SEEING)[0])
    try:
        client = Client(served.port)
        assert client.claim()["review"] is False
        assert client.ask("GET", "/api/review").status == 404
    finally:
        served.stop()


def crowd(review: Review, count: int) -> None:
    """Many more studies in the queue, less doubtful than those that there are; all are study a by other names."""
    ledger, volume = Ledger(review.folder), Path(review.study("a")["path"])
    for number in range(count):
        study = stamped(f"s{number:03}", volume, StudyPrompts("rows", "[]"))
        ledger.meet([study], SETTINGS.key, retries=False)
        found = ledger.next(())
        assert found is not None
        more = told() | {"objects": [OBJECT | {"doubt": 0.1 - number / 10_000}]}
        outcome = StudyOutcome(found[0].number, key=f"key {number}", told=more)
        ledger.settle(outcome, "masks/a.nii.gz")
    ledger.close()


def test_the_list_grows_to_the_end_of_the_queue(
    browser: BrowserContext, served: Served, review: Review
) -> None:
    crowd(review, 118)  # 120 studies, two of which have two objects
    rows = "document.querySelectorAll('#review-list li [title]').length"
    asked: list[str] = []
    viewer = Viewer(browser, served.url)
    viewer.page.on("request", lambda request: asked.append(request.url))
    viewer.until("!document.getElementById('review-accept').disabled")
    assert viewer.page.evaluate(rows) == 52
    assert viewer.words("#review-list .more") == "More: 50 of 120 studies are here"
    viewer.page.evaluate("document.querySelector('#review-list .more').click()")  # in place
    viewer.until(f"{rows} === 102")
    viewer.page.evaluate("document.getElementById('review-list').scrollTop = 1e6")
    viewer.until(f"{rows} === 122")
    viewer.until("document.querySelector('#review-list .more') === null")
    # A key that comes before the study is there decides nothing, least of all on the one before.
    viewer.page.evaluate(
        "() => { [...document.querySelectorAll('#review-list button')].at(-1).click();"
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'y', bubbles: true })); }"
    )
    viewer.until("document.getElementById('file-name').textContent === 's117'")
    viewer.until("!document.getElementById('review-accept').disabled")
    viewer.page.keyboard.press("y")
    viewer.until("document.getElementById('review-count').textContent === '1 decided'")
    assert viewer.complaints == []
    viewer.close()
    assert [*review.latest()] == [("s117", 1)]
    parts = [url for url in asked if "/api/review?" in url]
    # The first part may have been asked for before anybody listened.
    assert [part.partition("?")[2] for part in parts][-2:] == [
        "start=50&count=50",
        "start=100&count=50",
    ]


def test_what_waits_is_found_behind_what_is_decided(
    browser: BrowserContext, served: Served, review: Review
) -> None:
    crowd(review, 60)
    for name, object_id in [("b", 1), ("b", 2), ("a", 1), ("a", 2)]:
        review.record(Decision(name, object_id, "accepted", "me", f"key {name}"))
    for number in range(59):
        review.record(Decision(f"s{number:03}", 1, "rejected", "me", f"key {number}"))
    viewer = Viewer(browser, served.url)
    viewer.until("document.getElementById('file-name').textContent === 's059'")
    viewer.until("!document.getElementById('review-accept').disabled")
    crowd_later = {"objects": [OBJECT | {"doubt": 0.9}]}
    ledger = Ledger(review.folder)  # the cohort is at work: what is done now comes first
    volume = Path(review.study("a")["path"])
    ledger.meet([stamped("late", volume, StudyPrompts("rows", "[]"))], SETTINGS.key, False)
    found = ledger.next(())
    assert found is not None
    outcome = StudyOutcome(found[0].number, key="key late", told=told() | crowd_later)
    ledger.settle(outcome, "masks/a.nii.gz")
    ledger.close()
    viewer.page.keyboard.press("y")
    viewer.until("document.getElementById('file-name').textContent === 'late'")
    viewer.until("!document.getElementById('review-accept').disabled")
    viewer.page.keyboard.press("y")
    viewer.until("document.body.innerText.includes('All of the queue is decided')")
    assert viewer.complaints == []
    viewer.close()
    assert len(review.latest()) == 65


def test_keys_decide_in_a_browser(browser: BrowserContext, served: Served, review: Review) -> None:
    viewer = Viewer(browser, served.url)
    viewer.until("!document.getElementById('review-accept').disabled")
    assert viewer.state["maskedVoxels"] == (DRAWN == 1).sum()
    viewer.page.keyboard.down("y")
    viewer.until("document.getElementById('review-count').textContent === '1 decided'")
    viewer.until("!document.getElementById('review-accept').disabled")
    viewer.page.keyboard.down("y")  # held, it comes again: nobody has looked at the next one
    viewer.page.keyboard.up("y")
    assert viewer.page.is_enabled("#review-accept")  # nothing is being decided
    viewer.page.keyboard.press("x")
    viewer.until("document.getElementById('review-count').textContent === '2 decided'")
    viewer.until("document.getElementById('file-name').textContent === 'a'")
    assert viewer.complaints == []
    viewer.close()
    verdicts = {key: decision.verdict for key, decision in review.latest().items()}
    assert verdicts == {("b", 1): "accepted", ("b", 2): "rejected"}


def test_a_study_that_is_gone_keeps_nobody_from_the_others(
    browser: BrowserContext, served: Served, review: Review, tmp_path: Path
) -> None:
    (tmp_path / "studies" / "b.nrrd").unlink()  # of the first in the queue
    viewer = Viewer(browser, served.url)
    viewer.until("document.getElementById('file-name').textContent === 'a'")
    viewer.until("!document.getElementById('review-accept').disabled")
    assert viewer.words("#status") == "Ready"  # the cohort's masks were given, not stopped
    assert "b.nrrd does not exist" in viewer.words("#banner")
    rows = viewer.page.locator("#review-list li").all_inner_texts()
    assert ["cannot be opened" in row for row in rows] == [row.startswith("b,") for row in rows]
    viewer.page.keyboard.press("y")
    viewer.until("document.getElementById('review-count').textContent === '1 decided'")
    viewer.until("!document.getElementById('review-accept').disabled")
    review.record(Decision("a", 2, "rejected", "Ann", "key a"))  # on another page
    viewer.page.keyboard.press("y")
    viewer.until(
        "document.getElementById('banner-text').textContent.startsWith('Ann has rejected')"
    )
    assert viewer.words("#review-count") == "2 decided"
    viewer.until("!document.getElementById('review-accept').disabled")
    viewer.page.keyboard.press("y")
    viewer.until("document.getElementById('status').textContent.startsWith('What can be opened')")
    assert viewer.complaints == []
    viewer.close()
    assert {key for key, _ in review.latest()} == {"a"}
    assert review.latest()["a", 2].verdict == "accepted"
