"""The crew's decisions, without a process and without a clock."""

import math
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trifcgi.supervisor.policy import (
    Abort,
    Action,
    Crew,
    Kill,
    Member,
    Retire,
    Say,
    Severity,
    Start,
    State,
    Terms,
)


@attrs.define
class Told:
    """What a crew has answered to one event."""

    started: list[Member]
    retired: list[Member]
    patiently: list[Member]
    killed: list[Member]
    aborted: list[Member]
    said: list[str]
    worst: Severity | None


def told(actions: Iterator[Action]) -> Told:
    result = Told([], [], [], [], [], [], None)
    for action in actions:
        match action:
            case Start(member):
                result.started.append(member)
            case Retire(member, patient):
                result.retired.append(member)
                if patient:
                    result.patiently.append(member)
            case Abort(member):
                result.aborted.append(member)
            case Kill(member):
                result.killed.append(member)
            case Say(severity, text):
                result.said.append(text)
                result.worst = severity
    return result


def new_crew(size: int = 3, *, chance: float = 0.0, **terms: int) -> Crew:
    return Crew(Terms(size=size, obey_within=40, **terms), lambda: chance)


def serving(size: int = 3, **terms: int) -> Crew:
    """A crew whose workers all became ready at 0."""
    crew = new_crew(size, **terms)
    (first,) = told(crew.begin(0)).started
    for member in told(crew.is_ready(first, 0)).started:
        told(crew.is_ready(member, 0))
    assert [member.state for member in crew.members] == [State.SERVING] * size
    return crew


def replaced(crew: Crew, new: Member, now: float) -> Told:
    """A replacement gets ready, and the one it replaces ends."""
    old = new.replaces
    assert old is not None
    answer = told(crew.is_ready(new, now))
    assert answer.retired == [old]
    more = told(crew.has_ended(old, "exit status 0", 0, now))
    answer.started += more.started
    return answer


class TestStart:
    def test_one_worker_goes_first(self) -> None:
        crew = new_crew(3)
        (first,) = told(crew.begin(0)).started
        assert (first.number, first.place) == (1, 1)
        before = crew.ready
        rest = told(crew.is_ready(first, 1)).started
        assert (before, crew.ready) == (False, True)
        assert [(member.number, member.place) for member in rest] == [(2, 2), (3, 3)]

    @pytest.mark.parametrize(("status", "expected"), [(2, 2), (1, 1), (None, 1)])
    def test_a_first_worker_that_ends_is_the_end(self, status: int | None, expected: int) -> None:
        crew = new_crew(3)
        (first,) = told(crew.begin(0)).started
        answer = told(crew.has_ended(first, "somehow", status, 1))
        assert not answer.started
        assert crew.failed == expected
        assert crew.done
        assert bool(answer.said) == (expected == 1)

    def test_a_later_one_is_tried_again(self) -> None:
        crew = new_crew(2)
        (first,) = told(crew.begin(0)).started
        (second,) = told(crew.is_ready(first, 0)).started
        assert [m.place for m in told(crew.has_ended(second, "x", 2, 1)).started] == [2]
        assert crew.failed is None


class TestLateStart:
    """Of a worker that does not get ready."""

    def test_the_first_one_ends_the_start(self) -> None:
        crew = new_crew(2, ready_within=60)
        (first,) = told(crew.begin(0)).started
        assert crew.next_tick == 60
        answer = told(crew.tick(60))
        assert answer.aborted == [first]
        assert answer.said == ["worker 1 is not ready after 60 s; it is aborted"]
        assert crew.next_tick == 61
        answer = told(crew.tick(61))
        assert (answer.killed, answer.said) == ([first], [])
        answer = told(crew.has_ended(first, "SIGKILL", None, 61))
        assert answer.said == ["worker 1 could not start (not ready within 60 s)"]
        assert crew.failed == 1

    def test_one_that_gets_ready_is_left_alone(self) -> None:
        crew = serving(2, ready_within=60)
        assert crew.next_tick == math.inf

    def test_a_reload_leaves_the_old_workers_serving(self) -> None:
        crew = serving(2, ready_within=60)
        (new,) = told(crew.reload(100)).started
        assert told(crew.tick(160)).aborted == [new]
        answer = told(crew.has_ended(new, "SIGABRT", None, 160))
        assert answer.said == [
            (
                "worker 3, which was to replace worker 1, could not start "
                "(not ready within 60 s): the workers that run serve on"
            )
        ]
        assert not answer.started
        assert [member.state for member in crew.members] == [State.SERVING] * 2
        assert not crew.reloading

    def test_one_in_a_dead_workers_place_is_tried_again_with_pauses(self) -> None:
        crew = serving(1, ready_within=60)
        now, pauses = 0.0, []
        told(crew.has_ended(crew.members[0], "SIGKILL", None, now))
        for _ in range(4):
            now += 60
            assert told(crew.tick(now)).aborted == crew.members
            answer = told(crew.has_ended(crew.members[0], "SIGABRT", None, now))
            pauses.append(0.0 if answer.started else crew.next_tick - now)
            now += pauses[-1]
            told(crew.tick(now))
        assert pauses == [0.5, 1, 2, 4]

    def test_one_that_is_told_to_stop_meanwhile_is_not_aborted(self) -> None:
        crew = new_crew(1, ready_within=60)
        told(crew.begin(0))
        told(crew.stop(50))
        assert crew.next_tick == 90
        assert not told(crew.tick(60)).aborted


class TestDeath:
    def test_it_is_replaced_at_once(self) -> None:
        crew = serving()
        dead = crew.members[1]
        answer = told(crew.has_ended(dead, "SIGKILL", None, 100))
        assert answer.said == ["worker 2 has died (SIGKILL); it is replaced"]
        assert [(member.number, member.place) for member in answer.started] == [(4, 2)]

    def test_one_that_keeps_dying_is_given_pauses_and_it_is_said(self) -> None:
        crew = serving(1)
        now, pauses = 0.0, []
        for _ in range(9):
            (member,) = crew.members
            answer = told(crew.has_ended(member, "exit status 1", 1, now))
            pause = crew.next_tick - now if not answer.started else 0.0
            pauses.append(pause)
            assert answer.worst is Severity.ERROR
            assert ("the next one starts in" in answer.said[0]) == bool(pause)
            now += pause
            told(crew.tick(now))
        assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]

    def test_a_worker_that_serves_for_a_second_clears_the_name(self) -> None:
        crew = serving(1)
        for now in (0.0, 2.0, 4.0, 6.0, 20.0, 22.0):
            (member,) = crew.members
            told(crew.is_ready(member, now - 1))
            (new,) = told(crew.has_ended(member, "SIGSEGV", None, now)).started
            told(crew.is_ready(new, now))

    def test_many_deaths_in_a_short_time_are_too_many(self) -> None:
        crew = serving(1)
        for now in (1.1, 2.2, 3.3, 4.4, 5.5, 6.6):
            (member,) = crew.members
            told(crew.is_ready(member, now - 1.05))
            assert told(crew.has_ended(member, "SIGSEGV", None, now)).started
        (member,) = crew.members
        told(crew.is_ready(member, 6.65))
        assert not told(crew.has_ended(member, "SIGSEGV", None, 7.7)).started
        assert crew.next_tick == 7.7 + 0.5

    def test_two_places_do_not_share_a_name(self) -> None:
        crew = serving(2)
        one, two = crew.members
        assert told(crew.has_ended(one, "x", 1, 0)).started
        assert told(crew.has_ended(two, "x", 1, 0)).started


class TestReload:
    def test_workers_are_replaced_one_by_one_each_when_its_successor_is_ready(self) -> None:
        crew = serving(3)
        old = list(crew.members)
        starts = told(crew.reload(10)).started
        for each in old:
            (new,) = starts
            assert (new.place, new.replaces, new.generation) == (each.place, each, 1)
            assert each.state is State.SERVING
            starts = replaced(crew, new, 11).started
        assert not starts
        assert {member.generation for member in crew.members} == {1}

    def test_its_end_is_told(self) -> None:
        crew = serving(2)
        answer = told(crew.reload(10))
        assert answer.said == ["reloading: the workers are replaced one by one"]
        answer = replaced(crew, answer.started[0], 11)
        assert not answer.said
        answer = replaced(crew, answer.started[0], 12)
        assert answer.said == ["reloaded: every worker is a new one"]

    def test_the_next_one_does_not_wait_for_the_old_one_to_drain(self) -> None:
        crew = serving(2)
        (new,) = told(crew.reload(10)).started
        answer = told(crew.is_ready(new, 11))
        assert [member.place for member in answer.retired] == [1]
        assert [member.place for member in answer.started] == [2]

    def test_no_more_drain_at_once_than_there_are_places(self) -> None:
        crew = serving(2)
        draining: list[Member] = []
        starts = told(crew.reload(0)).started
        while starts:
            answer = told(crew.is_ready(starts[0], 0))
            draining += answer.retired
            starts = answer.started or told(crew.reload(0)).started
        assert len(draining) == 2
        assert told(crew.has_ended(draining[0], "exit status 0", 0, 1)).started

    def test_a_generation_that_cannot_start_leaves_the_old_one(self) -> None:
        crew = serving(3)
        (new,) = told(crew.reload(10)).started
        answer = told(crew.has_ended(new, "exit status 2", 2, 11))
        assert not answer.started
        assert not answer.retired
        assert answer.said == [
            (
                "worker 4, which was to replace worker 1, could not start (exit status 2): "
                "the workers that run serve on"
            )
        ]
        assert [member.number for member in crew.members] == [1, 2, 3]
        assert told(crew.reload(20)).started  # mended, and tried again

    def test_reloads_that_overlap_are_done_once_more_not_once_each(self) -> None:
        crew = serving(2)
        starts = told(crew.reload(0)).started
        for _ in range(24):
            assert not told(crew.reload(0)).started
        count = 0
        while starts:
            count += 1
            starts = replaced(crew, starts[0], 1).started
        # The one that was starting already, and then each place once.
        assert count == 3
        assert {member.generation for member in crew.members} == {25}

    def test_a_start_that_is_stuck_is_given_up_by_a_later_reload(self) -> None:
        crew = serving(1)
        (stuck,) = told(crew.reload(0)).started
        assert not told(crew.reload(9)).killed
        assert told(crew.reload(11)).killed == [stuck]

    def test_the_old_worker_dies_meanwhile(self) -> None:
        crew = serving(1)
        (old,) = crew.members
        (new,) = told(crew.reload(10)).started
        assert not told(crew.has_ended(old, "SIGKILL", None, 10)).started
        assert not told(crew.is_ready(new, 11)).retired
        assert crew.members == [new]

    def test_a_worker_that_was_starting_when_it_was_asked_for_is_replaced_too(self) -> None:
        crew = serving(2)
        (new,) = told(crew.has_ended(crew.members[1], "SIGKILL", None, 5)).started
        (first,) = told(crew.reload(6)).started
        assert not told(crew.is_ready(new, 7)).started  # one at a time
        (second,) = replaced(crew, first, 8).started
        assert second.replaces is new

    def test_before_the_first_worker_is_ready(self) -> None:
        crew = new_crew(1)
        (first,) = told(crew.begin(0)).started
        assert not told(crew.reload(0)).started
        assert [m.replaces for m in told(crew.is_ready(first, 1)).started] == [first]


class TestRecycling:
    def test_past_its_requests_a_worker_is_replaced_first_and_stopped_then(self) -> None:
        crew = serving(2, max_requests=100)
        worn = crew.members[1]
        assert not told(crew.reports(worn, 99, None, 5)).started
        answer = told(crew.reports(worn, 100, None, 6))
        assert answer.said == ["worker 2 has answered 100 requests: it is replaced"]
        (new,) = answer.started
        assert not answer.retired
        assert not told(crew.reports(worn, 150, None, 7)).started
        assert told(crew.is_ready(new, 8)).retired == [worn]

    def test_the_limit_is_spread(self) -> None:
        crew = new_crew(1, chance=0.5, max_requests=100)
        (member,) = told(crew.begin(0)).started
        assert member.request_limit == pytest.approx(105)

    def test_past_its_memory(self) -> None:
        crew = serving(1, max_rss=100 << 20)
        (member,) = crew.members
        assert not told(crew.reports(member, 9**9, 100 << 20, 5)).started
        answer = told(crew.reports(member, 9**9, 150 << 20, 5))
        assert answer.said == ["worker 1 uses 150 MiB of memory: it is replaced"]

    def test_two_worn_workers_wait_for_each_other(self) -> None:
        crew = serving(2, max_requests=1)
        first, second = crew.members
        (new,) = told(crew.reports(first, 1, None, 5)).started
        assert not told(crew.reports(second, 1, None, 5)).started
        assert [m.replaces for m in told(crew.is_ready(new, 6)).started] == [second]

    def test_a_replacement_that_cannot_start_is_not_tried_again_at_once(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        (new,) = told(crew.reports(worn, 1, None, 5)).started
        told(crew.has_ended(new, "exit status 2", 2, 6))
        assert not told(crew.reports(worn, 2, None, 65)).started
        assert told(crew.reports(worn, 3, None, 66)).started


def recycled(crew: Crew, worn: Member, now: float) -> Member:
    """Recycle a worker, whose requests run on; returns the one in its place."""
    (new,) = told(crew.reports(worn, 9**9, None, now)).started
    assert told(crew.is_ready(new, now)).patiently == [worn]
    return new


class TestPatience:
    """A worker that is recycled waits for its requests without a limit."""

    def test_it_is_not_killed(self) -> None:
        crew = serving(2, max_requests=1)
        worn = crew.members[0]
        recycled(crew, worn, 5)
        assert worn.state is State.RETIRING
        assert crew.next_tick == math.inf
        assert not told(crew.has_ended(worn, "exit status 0", 0, 9**6)).said

    def test_the_others_are_told_as_ever(self) -> None:
        crew = serving(2)
        (new,) = told(crew.reload(5)).started
        assert not told(crew.is_ready(new, 6)).patiently
        assert not told(crew.remove(7)).patiently
        assert not told(crew.stop(8)).patiently

    def test_until_it_has_ended_its_place_is_not_recycled_again(self) -> None:
        crew = serving(2, max_requests=1)
        worn, other = crew.members
        new = recycled(crew, worn, 5)
        answer = told(crew.reports(new, 1, None, 6))
        assert not answer.started
        assert not answer.said
        recycled(crew, other, 7)
        told(crew.has_ended(worn, "exit status 0", 0, 8))
        recycled(crew, new, 9)

    def test_a_stop_gives_it_the_grace_from_then_on(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        new = recycled(crew, worn, 5)
        answer = told(crew.stop(1000))
        assert (answer.retired, answer.patiently) == ([new, worn], [])
        told(crew.has_ended(new, "exit status 0", 0, 1000))
        assert crew.next_tick == 1040
        assert told(crew.tick(1040)).killed == [worn]

    def test_a_second_stop_is_at_once(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        new = recycled(crew, worn, 5)
        told(crew.stop(1000))
        assert told(crew.stop(1001)).retired == [new, worn]
        assert crew.next_tick == 1006

    def test_a_reload_gives_it_the_grace_too_and_once(self) -> None:
        crew = serving(2, max_requests=1)
        worn = crew.members[0]
        recycled(crew, worn, 5)
        answer = told(crew.reload(1000))
        assert (answer.retired, answer.patiently) == ([worn], [])
        assert crew.next_tick == 1040
        assert not told(crew.reload(1001)).retired
        assert not told(crew.stop(1002)).retired.count(worn)

    def test_a_reload_while_its_replacement_starts_ends_it(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        (new,) = told(crew.reports(worn, 1, None, 5)).started
        told(crew.reload(6))
        answer = told(crew.is_ready(new, 7))
        assert (answer.retired, answer.patiently) == ([worn], [])

    def test_after_a_reload_that_failed_too(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        (new,) = told(crew.reload(5)).started
        told(crew.has_ended(new, "exit status 2", 2, 6))
        recycled(crew, worn, 100)

    def test_one_whose_replacement_could_not_start_is_taken_away_as_ever(self) -> None:
        crew = serving(2, max_requests=1)
        worn = crew.members[1]
        (new,) = told(crew.reports(worn, 1, None, 5)).started
        told(crew.has_ended(new, "exit status 2", 2, 6))
        answer = told(crew.remove(7))
        assert (answer.retired, answer.patiently) == ([worn], [])
        assert crew.next_tick == 47

    def test_one_that_hangs_is_killed(self) -> None:
        crew = serving(1, max_requests=1)
        (worn,) = crew.members
        recycled(crew, worn, 5)
        assert told(crew.is_hung(worn, 30, 100)).aborted == [worn]
        assert told(crew.tick(101)).killed == [worn]


class TestSize:
    def test_more(self) -> None:
        crew = serving(2)
        assert [member.place for member in told(crew.add(5)).started] == [3]

    def test_fewer(self) -> None:
        crew = serving(3)
        last = crew.members[2]
        assert told(crew.remove(5)).retired == [last]
        assert not told(crew.has_ended(last, "exit status 0", 0, 6)).started

    def test_one_always_stays(self) -> None:
        crew = serving(1)
        answer = told(crew.remove(5))
        assert not answer.retired
        assert answer.said == ["the last worker is not removed"]

    def test_a_place_that_waits_for_its_next_worker_goes_at_once(self) -> None:
        crew = serving(2)
        for _ in range(2):
            told(crew.has_ended(crew.members[1], "x", 1, 0))
        assert crew.next_tick == 0.5
        told(crew.remove(0))
        assert crew.next_tick == math.inf

    def test_a_place_in_the_middle_of_its_replacement_loses_both(self) -> None:
        crew = serving(2)
        (one,) = told(crew.reload(0)).started
        (two,) = replaced(crew, one, 0).started
        assert told(crew.remove(1)).retired == [crew.members[0], two]

    def test_before_the_first_worker_is_ready(self) -> None:
        crew = new_crew(1)
        (first,) = told(crew.begin(0)).started
        assert not told(crew.add(0)).started
        assert [member.place for member in told(crew.is_ready(first, 1)).started] == [2]


class TestStop:
    def test_all_are_told_the_youngest_first(self) -> None:
        crew = serving(3)
        members = list(crew.members)
        assert told(crew.stop(5)).retired == members[::-1]
        assert not crew.ready
        for member in members:
            assert not crew.done
            told(crew.has_ended(member, "exit status 0", 0, 6))
        assert crew.done

    def test_nothing_is_started_any_more(self) -> None:
        crew = serving(1)
        (member,) = crew.members
        (new,) = told(crew.reload(4)).started
        told(crew.stop(5))
        for answer in (
            crew.is_ready(new, 6), crew.reload(6), crew.add(6), crew.remove(6), crew.tick(6),
            crew.reports(member, 10, 10, 6), crew.is_leaving(member, 6),
            crew.has_ended(member, "SIGKILL", None, 6),
        ):  # fmt: skip
            assert not told(answer).started

    def test_one_that_disobeys_is_killed(self) -> None:
        crew = serving(2)
        one, two = crew.members
        told(crew.stop(5))
        told(crew.has_ended(two, "exit status 0", 0, 6))
        assert crew.next_tick == 45
        answer = told(crew.tick(45))
        assert answer.killed == [one]
        assert answer.said == ["worker 1 does not stop; it is killed"]
        assert crew.next_tick == math.inf

    def test_the_second_time_is_at_once(self) -> None:
        crew = serving(2)
        told(crew.stop(5))
        assert told(crew.stop(7)).retired == crew.members[::-1]
        assert crew.next_tick == 12
        assert len(told(crew.tick(12)).killed) == 2

    def test_one_that_somebody_else_stops_is_replaced_at_once(self) -> None:
        crew = serving(2)
        leaving = crew.members[0]
        assert [member.place for member in told(crew.is_leaving(leaving, 5)).started] == [1]
        assert not told(crew.is_leaving(leaving, 6)).started
        assert not told(crew.has_ended(leaving, "exit status 0", 0, 7)).started
        assert crew.members[-1].place == 1


def test_one_that_hangs_may_say_where_is_killed_and_then_replaced() -> None:
    crew = serving(1)
    (member,) = crew.members
    answer = told(crew.is_hung(member, 30, 100))
    assert answer.aborted == [member]
    assert answer.said == ["worker 1 has not answered for 30 s; it is aborted"]
    assert crew.next_tick == 101
    assert told(crew.tick(101)).killed == [member]
    assert told(crew.has_ended(member, "SIGKILL", None, 101)).started
    assert not told(crew.is_hung(member, 30, 102)).aborted


class Life(RuleBasedStateMachine):
    """Anything may happen to a crew, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.crew = new_crew(2, max_requests=10)
        self.alive: list[Member] = []
        self.do(self.crew.begin(0))

    def do(self, actions: Iterator[Action]) -> None:
        answer = told(actions)
        self.alive += answer.started
        for member in answer.retired:
            assert member.state is State.RETIRING

    @property
    def members(self) -> st.SearchStrategy[Member]:
        return st.sampled_from(self.alive)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), status=st.sampled_from([0, 1, 2, None]))
    def end(self, data: st.DataObject, status: int | None) -> None:
        member = data.draw(self.members)
        self.alive.remove(member)
        self.do(self.crew.has_ended(member, "somehow", status, self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        self.do(self.crew.is_ready(data.draw(self.members), self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), requests=st.integers(0, 20))
    def report(self, data: st.DataObject, requests: int) -> None:
        self.do(self.crew.reports(data.draw(self.members), requests, None, self.now))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.do(self.crew.is_leaving(data.draw(self.members), self.now))

    @rule(what=st.sampled_from(["reload", "add", "remove", "reload"]))
    def ask(self, what: str) -> None:
        self.do(getattr(self.crew, what)(self.now))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.crew.tick(self.now))

    @precondition(lambda self: len(self.crew.members) > 3)
    @rule()
    def stop(self) -> None:
        self.do(self.crew.stop(self.now))

    @invariant()
    def it_knows_who_lives(self) -> None:
        assert self.crew.members == self.alive

    @invariant()
    def every_place_has_a_worker_or_will_have(self) -> None:
        if self.crew.stopping or self.crew.failed is not None or not self.crew._begun:
            return
        there = [m for m in self.alive if m.state is not State.RETIRING and m.replaces is None]
        filled = {m.place for m in there} | set(self.crew._due)
        assert filled == set(range(1, self.crew.size + 1))
        assert len(there) + len(self.crew._due) == self.crew.size

    @invariant()
    def few_wait_without_a_limit(self) -> None:
        patient = [m.place for m in self.alive if m.state is State.RETIRING and m.patient]
        assert len(patient) == len(set(patient))
        assert not (patient and self.crew.stopping)

    @invariant()
    def there_are_never_many_more_than_wanted(self) -> None:
        draining = sum(m.state is State.RETIRING for m in self.alive)
        assert len(self.alive) - draining <= self.crew.size + 1
        assert sum(m.replaces is not None for m in self.alive) <= 1


TestAnything = Life.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
