"""Which workers run: every decision of the supervisor, and nothing that carries it out.

:class:`Crew` is told what happens (a worker is ready, one has ended, somebody wants a reload) and
answers with :data:`Action` objects. Time is an argument: any clock in seconds that never goes
back. So all of it can be tried without a process and without waiting.
"""

import enum
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import attrs

from trifcgi.supervisor.restarts import Restarts

__all__ = [
    "Abort",
    "Action",
    "Crew",
    "Kill",
    "Member",
    "Retire",
    "Say",
    "Severity",
    "Start",
    "State",
    "Terms",
]

# A worker that hangs, or does not get ready, may take so long to write down where, before it is
# killed (seconds).
_LAST_WORDS: Final = 1.0

# What a stop at once leaves for clean-up before SIGKILL (seconds).
_AT_ONCE: Final = 5.0

# A newer reload gives up on a start that has taken so long: it may be stuck in the very mistake
# that the reload is to mend (seconds).
_PATIENT_START: Final = 10.0

# After a worker's replacement has failed to start, it is not tried again for so long (seconds).
_RECYCLE_PAUSE: Final = 60.0

# Limits of requests are spread by so much, so that workers do not all reach theirs together.
_JITTER: Final = 0.1

USAGE_MISTAKE: Final = 2


class State(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    RETIRING = "draining"
    ENDED = "ended"


@attrs.define(eq=False)
class Member:
    """One worker, from the decision to start it to its end.

    Attributes:
        number: counts the workers from 1; never used again.
        place: which of the crew's places it fills, from 1.
        generation: how many reloads had been asked for when it was started.
        started_at: when that was.
        ready_at: when it began to serve, or ``None``.
        replaces: the worker that serves on until this one is ready.
        ready_by: when it will have taken too long to start.
        given_up: whether it has.
        request_limit: requests after which it is replaced; ``math.inf``: none.
        patient: whether its requests may take as long as they like to end, once it is told to
            stop: it is recycled, and another one serves in its place.
        kill_at: when it will have disobeyed for too long.
    """

    number: int
    place: int
    generation: int
    started_at: float
    request_limit: float = math.inf
    replaces: "Member | None" = None
    state: State = State.STARTING
    ready_at: float | None = None
    ready_by: float = math.inf
    given_up: bool = False
    patient: bool = False
    kill_at: float = math.inf


class Severity(enum.Enum):
    """How bad a piece of news is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen
class Start:
    """Start a process for this worker."""

    member: Member


@attrs.frozen
class Retire:
    """Tell a worker to stop: gracefully the first time, at once the second time.

    Attributes:
        member: the worker.
        patient: that it may wait for its requests without a limit. Does not count as a first time.
    """

    member: Member
    patient: bool = False


@attrs.frozen
class Abort:
    """Have a worker that hangs say where, and end."""

    member: Member


@attrs.frozen
class Kill:
    """End a worker that does not obey."""

    member: Member


@attrs.frozen
class Say:
    """Put a sentence on the log."""

    severity: Severity
    text: str


Action: TypeAlias = Start | Retire | Abort | Kill | Say
Actions: TypeAlias = Iterator[Action]


@attrs.frozen(kw_only=True)
class Terms:
    """What the workers are held to.

    Attributes:
        size: how many shall serve. At least 1.
        obey_within: seconds that a worker may take from being told to stop to its end.
        ready_within: seconds that a worker may take to start; ``math.inf``: no limit.
        max_requests: requests that a worker answers before it is replaced; up to a tenth more,
            differently for each. ``None``: no limit.
        max_rss: bytes of memory past which a worker is replaced. ``None``: no limit.
    """

    size: int
    obey_within: float
    ready_within: float = math.inf
    max_requests: int | None = None
    max_rss: int | None = None


class Crew:
    """The workers there are, and those there should be.

    The first worker starts alone: an application that cannot be loaded says so once, and ends the
    start. Later a worker that dies is replaced, after a pause if it keeps dying; a reload and the
    recycling of worn workers replace one worker at a time, the new one ready before the old
    one is told to stop.

    Every method that tells of an event returns an iterator of what is to be done: run it to
    its end before the next call.

    Args:
        terms: what the workers are held to.
        chance: gives numbers from 0 to 1, for the jitter of ``max_requests``.

    Attributes:
        size: how many workers shall serve.
        generation: how many reloads were asked for.
        members: all workers that have not ended, in the order of their start.
        stopping: whether the crew was told to stop.
        failed: the exit status of a first worker that could not start; ``None`` otherwise.
        next_tick: when :meth:`tick` has something to do.
    """

    def __init__(self, terms: Terms, chance: Callable[[], float]) -> None:
        self.size = terms.size
        self.generation = 0
        self.members: list[Member] = []
        self.stopping = False
        self.failed: int | None = None
        self._terms = terms
        self._chance = chance
        self._started = 0
        self._begun = False
        self._restarts: dict[int, Restarts] = {}
        self._due: dict[int, float] = {}
        self._worn: deque[Member] = deque()
        self._reloading = False
        self._recycle_after = -math.inf

    @property
    def done(self) -> bool:
        """Whether all has ended, and nothing will be started any more."""
        return (self.stopping or self.failed is not None) and not self.members

    @property
    def ready(self) -> bool:
        """Whether a worker serves, and the crew is not stopping."""
        return not self.stopping and any(m.state is State.SERVING for m in self.members)

    @property
    def next_tick(self) -> float:
        """When :meth:`tick` has to be called; ``math.inf``: not at all."""
        times = [min(m.kill_at, m.ready_by) for m in self.members] + list(self._due.values())
        return min(times, default=math.inf)

    # What happens to workers

    def begin(self, now: float) -> Actions:
        """Start the first worker."""
        yield self._start(1, now)

    def is_ready(self, member: Member, now: float) -> Actions:
        """A worker has begun to serve."""
        if member.state is not State.STARTING:
            return
        member.state, member.ready_at = State.SERVING, now
        member.ready_by = math.inf
        old, member.replaces = member.replaces, None
        if old is not None:
            yield from self._retire(old, now, patient=old.patient)
        if not self._begun:
            self._begun = True
            for place in range(2, self.size + 1):
                yield self._start(place, now)
        if member.generation < self.generation:
            # It was started before the last reload was asked for.
            self._worn.append(member)
        yield from self._advance(now)

    def has_ended(self, member: Member, how: str, status: int | None, now: float) -> Actions:
        """A worker's process has ended.

        Args:
            member: the worker.
            how: that in words: ``exit status 3``, ``SIGKILL``.
            status: its exit status; ``None`` where a signal ended it or it could not be started.
            now: the time.
        """
        was, member.state, member.kill_at = member.state, State.ENDED, math.inf
        self.members.remove(member)
        if member.given_up:
            how = f"not ready within {self._terms.ready_within:g} s"
        if self.stopping:
            return
        if not self._begun:
            self.failed = USAGE_MISTAKE if status == USAGE_MISTAKE else 1
            if self.failed != USAGE_MISTAKE:
                # A usage mistake has been told by the worker, in a sentence.
                text = f"worker {member.number} could not start ({how})"
                yield Say(Severity.ERROR, text)
            return
        if was is not State.RETIRING:
            if member.replaces is not None:
                yield from self._replacement_failed(member, how, now)
            else:
                yield from self._lost(member, how, now)
        yield from self._advance(now)

    def is_leaving(self, member: Member, now: float) -> Actions:
        """A worker stops because somebody else has told it to."""
        if member.state is State.SERVING and not self.stopping:
            text = f"worker {member.number} was told to stop by somebody else; it is replaced"
            yield Say(Severity.INFO, text)
            member.state, member.kill_at = State.RETIRING, now + self._terms.obey_within
            member.patient = False
            yield from self._fill(member.place, now)

    def reports(self, member: Member, requests: int, rss: int | None, now: float) -> Actions:
        """A worker has said how much it has done and grown.

        Args:
            member: the worker.
            requests: how many it has begun.
            rss: bytes of memory that it uses, where known.
            now: the time.
        """
        if member.state is not State.SERVING or self.stopping or member in self._worn:
            return
        most = self._terms.max_rss
        if requests >= member.request_limit:
            why = f"has answered {requests} requests"
        elif most is not None and rss is not None and rss > most:
            why = f"uses {rss >> 20} MiB of memory"
        else:
            return
        if now < self._recycle_after or self._replacement_of(member) is not None:
            return
        if any(each.place == member.place and each.patient for each in self._retiring()):
            return  # or those that wait for their requests could become many
        yield Say(Severity.INFO, f"worker {member.number} {why}: it is replaced")
        member.patient = True
        self._worn.append(member)
        yield from self._advance(now)

    def is_hung(self, member: Member, silence: float, now: float) -> Actions:
        """A worker's event loop has not answered for ``silence`` seconds."""
        if member.state is State.ENDED:
            return
        text = f"worker {member.number} has not answered for {silence:g} s; it is aborted"
        yield Say(Severity.ERROR, text)
        yield Abort(member)
        member.kill_at = min(member.kill_at, now + _LAST_WORDS)

    # What people want

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way: neither done nor given up."""
        return self._reloading

    def reload(self, now: float) -> Actions:
        """Replace every worker that serves now, one after the other."""
        if self.stopping:
            return
        self.generation += 1
        self._reloading = True
        yield Say(Severity.INFO, "reloading: the workers are replaced one by one")
        self._worn = deque(sorted(self._serving(), key=lambda member: member.place))
        for member in self.members:
            patient = now - member.started_at < _PATIENT_START
            if member.state is State.STARTING and member.replaces is not None and not patient:
                text = f"worker {member.number} takes too long to start; it is given up"
                yield Say(Severity.WARNING, text)
                yield Kill(member)
            if member.state is State.RETIRING and member.patient:
                yield from self._retire(member, now)
            member.patient = False
        yield from self._advance(now)

    def add(self, now: float) -> Actions:
        """Add a place and a worker to it."""
        if self.stopping:
            return
        self.size += 1
        yield Say(Severity.INFO, f"workers wanted: {self.size}")
        if self._begun:
            yield self._start(self.size, now)

    def remove(self, now: float) -> Actions:
        """Take the last place away, with its worker; one always stays."""
        if self.stopping:
            return
        if self.size == 1:
            yield Say(Severity.WARNING, "the last worker is not removed")
            return
        self.size -= 1
        yield Say(Severity.INFO, f"workers wanted: {self.size}")
        place = self.size + 1
        self._due.pop(place, None)
        self._restarts.pop(place, None)
        for member in self.members:
            if member.place == place and member.state is not State.RETIRING:
                yield from self._retire(member, now)

    def stop(self, now: float) -> Actions:
        """Stop all workers, the youngest first; called again, at once."""
        again, self.stopping = self.stopping, True
        self._due.clear()
        self._worn.clear()
        for member in reversed(self.members):
            if again:
                member.kill_at = min(member.kill_at, now + _AT_ONCE)
                yield Retire(member)
            elif member.state is not State.RETIRING or member.patient:
                yield from self._retire(member, now)

    def tick(self, now: float) -> Actions:
        """Do what has become due."""
        for member in self.members:
            if member.kill_at <= now:
                member.kill_at = math.inf
                if not member.given_up:
                    text = f"worker {member.number} does not stop; it is killed"
                    yield Say(Severity.ERROR, text)
                yield Kill(member)
            elif member.ready_by <= now:
                yield from self._give_up(member, now)
        for place, due in list(self._due.items()):
            if due <= now:
                del self._due[place]
                yield self._start(place, now)

    # Decisions

    def _start(self, place: int, now: float, replaces: Member | None = None) -> Start:
        self._started += 1
        most = self._terms.max_requests
        limit = math.inf if most is None else most * (1 + _JITTER * self._chance())
        member = Member(
            self._started,
            place,
            self.generation,
            now,
            request_limit=limit,
            replaces=replaces,
            ready_by=now + self._terms.ready_within,
        )
        self.members.append(member)
        return Start(member)

    def _give_up(self, member: Member, now: float) -> Actions:
        member.given_up, member.ready_by = True, math.inf
        member.kill_at = now + _LAST_WORDS
        seconds = self._terms.ready_within
        text = f"worker {member.number} is not ready after {seconds:g} s; it is aborted"
        yield Say(Severity.ERROR, text)
        yield Abort(member)

    def _retire(self, member: Member, now: float, *, patient: bool = False) -> Actions:
        member.state, member.replaces = State.RETIRING, None
        member.ready_by = math.inf
        member.patient = patient
        if not patient:
            member.kill_at = min(member.kill_at, now + self._terms.obey_within)
        yield Retire(member, patient)

    def _serving(self) -> list[Member]:
        return [member for member in self.members if member.state is State.SERVING]

    def _retiring(self) -> list[Member]:
        return [member for member in self.members if member.state is State.RETIRING]

    def _replacement_of(self, old: Member) -> Member | None:
        return next((member for member in self.members if member.replaces is old), None)

    def _advance(self, now: float) -> Actions:
        """Begin to replace the next worn worker, unless another replacement is under way.

        Old workers may drain for long. At most as many as there are places do so at once: reloads
        that follow each other faster than that wait.
        """
        if self.stopping or any(member.replaces is not None for member in self.members):
            return
        while self._worn:
            if len(self._retiring()) >= self.size:
                return
            old = self._worn.popleft()
            if old.state is State.SERVING:
                yield self._start(old.place, now, replaces=old)
                return
        if self._reloading:
            self._reloading = False
            yield Say(Severity.INFO, "reloaded: every worker is a new one")

    def _lost(self, member: Member, how: str, now: float) -> Actions:
        """A worker has died that should have served on."""
        restarts = self._restarts.setdefault(member.place, Restarts())
        served = 0.0 if member.ready_at is None else now - member.ready_at
        pause = restarts.died(now, served)
        said = f"worker {member.number} has died ({how})"
        if not pause or self._replacement_of(member) is not None:
            yield Say(Severity.ERROR, f"{said}; it is replaced")
            yield from self._fill(member.place, now)
        else:
            times = f"{restarts.streak} workers in a row have died in its place"
            yield Say(Severity.ERROR, f"{said}; {times}: the next one starts in {pause:g} s")
            self._due[member.place] = now + pause

    def _fill(self, place: int, now: float) -> Actions:
        """See to it that a place whose worker is gone gets another."""
        for member in self.members:
            if member.place == place and member.replaces is not None:
                member.replaces = None  # it was to be the next one anyway
                return
        if place <= self.size:
            yield self._start(place, now)

    def _replacement_failed(self, member: Member, how: str, now: float) -> Actions:
        old, member.replaces = member.replaces, None
        assert old is not None
        self._worn.clear()
        self._reloading = False
        self._recycle_after = now + _RECYCLE_PAUSE
        yield Say(
            Severity.ERROR,
            f"worker {member.number}, which was to replace worker {old.number}, could not start"
            f" ({how}): the workers that run serve on",
        )
