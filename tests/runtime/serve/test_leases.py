"""Leases: two clocks, places and memory, all by a clock that the test turns."""

from __future__ import annotations

import pytest

from runtime.errors import OutOfMemory
from runtime.serve.leases import AWAY_S, AtCapacity, LeaseExpired, Leases, TooManyRequests
from runtime.serve.limits import Limits
from tests.no_threads import no_more_threads
from tests.runtime.serve.fakes import FakeSession

LIMITS = Limits(max_sessions=2, max_volume_bytes=1000, idle_s=600.0, silent_s=60.0, max_pending=2)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(FakeSession, LIMITS, clock)  # type: ignore[arg-type]


def closed(leases: Leases, session: object) -> bool:
    leases._closer.submit(lambda: None).result()
    assert isinstance(session, FakeSession)
    return session.is_closed


def test_a_session_ends_when_its_client_is_silent(leases: Leases, clock: Clock) -> None:
    lease = leases.grant("nninteractive")
    for _ in range(9):
        clock.now += 59
        leases.of(lease.token, is_active=False)
    assert leases.remaining_s(lease.token) == pytest.approx(600 - 9 * 59)
    clock.now += 61
    with pytest.raises(LeaseExpired):
        leases.of(lease.token)
    leases.expire()
    assert closed(leases, lease.session)


def test_memory_is_given_back_once_sessions_have_ended_and_nobody_works(clock: Clock) -> None:
    seen: list[float] = []
    leases = Leases(FakeSession, LIMITS, clock, lambda: seen.append(clock.now))  # type: ignore[arg-type]

    def given_back(after_s: float) -> int:
        clock.now += after_s
        leases.expire()
        leases._closer.submit(lambda: None).result()
        return len(seen)

    one, other = leases.grant("nninteractive"), leases.grant("nninteractive")
    assert given_back(LIMITS.rest_s + 1) == 0
    leases.release(one.token)
    with leases.working(other):
        assert given_back(LIMITS.rest_s + 1) == 0
    assert given_back(LIMITS.rest_s - 1) == 0
    assert given_back(2) == 1
    assert given_back(LIMITS.rest_s + 1) == 1
    leases.release(other.token)
    assert given_back(0) == 2


def test_a_session_ends_when_its_user_is_away_whatever_its_client_says(
    leases: Leases, clock: Clock
) -> None:
    lease = leases.grant("nninteractive")
    for _ in range(12):
        clock.now += 50
        leases.of(lease.token, is_active=False)
    clock.now += 1
    with pytest.raises(LeaseExpired):
        leases.peek(lease.token)
    assert leases.remaining_s(lease.token) == 0


def test_looking_does_not_extend_a_lease(leases: Leases, clock: Clock) -> None:
    lease = leases.grant("nninteractive")
    clock.now += 50
    leases.peek(lease.token)
    clock.now += 11
    with pytest.raises(LeaseExpired):
        leases.peek(lease.token)


def test_what_a_user_does_extends_both_clocks(leases: Leases, clock: Clock) -> None:
    lease = leases.grant("nninteractive")
    for _ in range(30):
        clock.now += 50
        leases.of(lease.token)
    assert leases.remaining_s(lease.token) == 600


def test_a_session_that_works_does_not_end(leases: Leases, clock: Clock) -> None:
    lease = leases.grant("nninteractive")
    with leases.working(lease):
        clock.now += 5000
        leases.expire()
        assert leases.peek(lease.token) is lease
    assert leases.remaining_s(lease.token) == 600


def test_a_session_takes_so_many_requests_at_once(leases: Leases) -> None:
    lease = leases.grant("nninteractive")
    with (
        leases.working(lease),
        leases.working(lease),
        pytest.raises(TooManyRequests),
        leases.working(lease),
    ):
        pass
    with leases.working(lease):
        pass


def test_there_are_so_many_places(leases: Leases, clock: Clock) -> None:
    first, _ = leases.grant("nninteractive"), leases.grant("page")
    with pytest.raises(AtCapacity):
        leases.grant("itksnap")
    leases.release(first.token)
    leases.release(first.token)
    assert leases.grant("itksnap").number == 3
    clock.now += 61
    assert leases.grant("nninteractive").number == 4  # in the page's place, which has gone silent


def test_a_page_that_has_left_gives_its_place_to_who_wants_it(leases: Leases, clock: Clock) -> None:
    first, second = leases.grant("page"), leases.grant("page")
    leases.leave(first.token)
    leases.leave("of nobody")
    clock.now += AWAY_S
    with pytest.raises(AtCapacity):
        leases.grant("page")  # it may be loading again
    clock.now += 1
    with leases.working(first), pytest.raises(AtCapacity):
        leases.grant("page")
    leases.leave(first.token)
    clock.now += AWAY_S + 1
    leases.of(first.token, is_active=False)  # it was
    leases.of(second.token, is_active=False)
    with pytest.raises(AtCapacity):
        leases.grant("page")
    leases.leave(first.token)
    clock.now += AWAY_S + 1
    assert leases.grant("page").number == 3 and closed(leases, first.session)
    assert leases.peek(second.token) is second


def test_a_face_without_heartbeats_gives_its_place_only_when_it_is_wanted(
    leases: Leases, clock: Clock
) -> None:
    snap, other = leases.grant("itksnap"), leases.grant("nninteractive")
    clock.now += 601
    leases.expire()
    assert leases.of(snap.token) is snap
    with pytest.raises(LeaseExpired):
        leases.of(other.token)
    clock.now += 601
    leases.grant("page"), leases.grant("page")
    with pytest.raises(LeaseExpired):
        leases.of(snap.token)
    clock.now += 6 * 600
    assert not len([each for each in (snap, other) if leases.remaining_s(each.token)])


def test_tokens_are_safe_in_addresses_and_never_the_same(leases: Leases) -> None:
    first, second = leases.grant("itksnap").token, leases.grant("itksnap").token
    assert first != second and len(first) == 32
    assert first.replace("-", "").replace("_", "").isalnum()
    for token in (None, "", first[:-1], first + "x", "\udcff", first.swapcase()):
        with pytest.raises(LeaseExpired):
            leases.of(token)


def test_who_needs_memory_gets_that_of_who_was_away_longest(leases: Leases, clock: Clock) -> None:
    old, new = leases.grant("nninteractive"), leases.grant("nninteractive")
    leases.hold(old, "image", 600)
    clock.now += 1
    leases.hold(leases.of(new.token), "image", 400)
    leases.hold(new, "image", 300)
    assert leases.held_bytes == 900
    leases.hold(new, "buffer", 500)
    assert leases.held_bytes == 800
    with pytest.raises(LeaseExpired):
        leases.of(old.token)
    assert closed(leases, old.session)


def test_who_works_keeps_its_memory(leases: Leases) -> None:
    old, new = leases.grant("nninteractive"), leases.grant("nninteractive")
    leases.hold(old, "image", 600)
    leases.hold(new, "image", 100)
    with leases.working(old), pytest.raises(OutOfMemory):
        leases.hold(new, "image", 500)
    assert leases.held_bytes == 700
    leases.let_go(old, "image")
    leases.hold(new, "image", 1000)
    with pytest.raises(OutOfMemory):
        leases.hold(new, "buffer", 1)


def test_who_has_what_others_leave_is_told_when_that_is_less(clock: Clock) -> None:
    told: list[int] = []
    leases = Leases(FakeSession, LIMITS, clock, on_held=lambda: told.append(leases.held_bytes))  # type: ignore[arg-type]
    lease = leases.grant("page")
    leases.hold(lease, "image", 600)
    with leases.holding(lease, 100), pytest.raises(OutOfMemory):
        leases.hold(lease, "objects", 500)
    assert told == [600, 700]
    leases.close()


def test_an_ended_session_holds_nothing(leases: Leases) -> None:
    lease = leases.grant("nninteractive")
    leases.hold(lease, "image", 600)
    leases.release(lease.token)
    assert leases.held_bytes == 0
    with pytest.raises(LeaseExpired):
        leases.hold(lease, "image", 1)
    leases.let_go(lease, "image")


def test_all_end_with_the_server(leases: Leases) -> None:
    sessions = [leases.grant("page").session, leases.grant("itksnap").session]
    leases.cancel_all()
    assert all(session.was_cancelled.is_set() for session in sessions)  # type: ignore[attr-defined]
    leases.close()
    leases._closer.shutdown()
    assert all(session.is_closed for session in sessions) and not len(leases)  # type: ignore[attr-defined]


def test_sessions_end_where_no_thread_is_to_be_had_any_more(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_more_threads(monkeypatch)
    lease = leases.grant("nninteractive")
    leases.release(lease.token)
    assert closed(leases, lease.session)


def test_a_lease_is_worth_nothing_to_another_face(leases: Leases) -> None:
    token = leases.grant("page").token
    assert leases.of(token, face="page").token == token
    with pytest.raises(LeaseExpired, match="another kind"):
        leases.of(token, face="itksnap")
