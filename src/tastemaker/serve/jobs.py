"""Work that takes minutes, such as drawing pictures: a queue in the store itself.

A job waits, runs, and ends done, failed or cancelled. Workers are processes, one a device; a worker holds a job on a
lease and shows by beats that it lives. A job whose beats stand still for a lease is claimed again, three times in all;
then it fails, for it seems to kill its workers. A worker that was only slow finds its lease lost and its result is not
taken, so that a job ends once.

Whether beats stand still is seen by the next worker's own clock, from two looks a lease apart: no clock is shared, so
none can be wrong. The price is that a worker that has just started waits a whole lease before it takes anything over.

What a job makes is stored as it comes, as events of their own (`Made` with this job), under keys such as 'job 7: 3':
claimed again, the job makes them again and none is there twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import func, insert, select, update

from tastemaker.errors import InvalidArgument, TastemakerError, UnknownId, UnknownName
from tastemaker.serve import schema as s
from tastemaker.serve.events import Conflict, StoreDown, check_text
from tastemaker.serve.store import Store

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ANY = "any"  # a job that every device may do
_PAUSE = 0.2  # seconds between looks for work
_LONGEST = 2_000  # characters of a message


class Cancelled(TastemakerError):
    """Somebody cancelled the job."""


class LeaseLost(TastemakerError):
    """The job was given to another worker, or has ended."""


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        work: what to do; JSON.
        user: who asked for it.
        device: that may do it, or 'any'.
        needs: files and folders that must be there while it runs.
        progress: 0..1.
        message: what it is doing; what went wrong.
        attempts: how often it was claimed.
        result: what the work returned; JSON.
        time, changed: when it was enqueued and last changed, microseconds since 1970.
    """

    job: int
    work: Mapping[str, Any]
    user: str | None
    device: str
    needs: tuple[str, ...]
    state: State
    worker: str | None
    progress: float
    message: str
    attempts: int
    result: Mapping[str, Any] | None
    time: int
    changed: int


Tell = Callable[[float, str], None]
Work = Callable[[Job, Tell], Mapping[str, Any] | None]


class Jobs:
    """The queue of a store."""

    def __init__(self, store: Store, *, lease: float = 30.0, attempts: int = 3) -> None:
        """Args: lease: seconds without a beat after which a job is claimed again; attempts: claims a job gets."""
        if not lease > 0 or attempts < 1:
            raise InvalidArgument(f"lease={lease}, attempts={attempts}; expected above 0, and at least 1")
        self.store, self.lease, self.attempts = store, lease, attempts
        self._looks: dict[tuple[int, int], float] = {}  # (job, beats): since when, by our clock, it stands so

    # -- for those who ask -------------------------------------------------------------------------------------------

    def enqueue(
        self,
        work: Mapping[str, Any],
        *,
        device: str = ANY,
        user: str | None = None,
        needs: Sequence[str | Path] = (),
        key: str | None = None,
    ) -> int:
        """Ask for work; the job's number, once it is on the disk. The same key again gives the same job.

        Raises:
            InvalidArgument: work that is not JSON.
            Conflict: the key was first used for other work.
            UnknownId: nobody is called so.
            StoreDown: nothing was acknowledged.
        """
        row = None if user is None else self.store.user(user).row
        asked = {"device": check_text(device, "device"), "user": row, "work": _json(work, "work")}
        asked["needs"] = json.dumps([str(path) for path in needs])
        if key is not None:
            check_text(key, "key")
        with self.store.writing() as db:
            seq, now = s.turn(db)
            first = db.execute(select(s.jobs).where(s.jobs.c.key == key)).mappings().one_or_none() if key else None
            if first is not None:
                if any(first[name] != value for name, value in asked.items()):
                    raise Conflict(f"key '{key}' was first used for other work; use a new key for a new job")
                return int(first["job"])
            number = int(db.scalar(select(func.max(s.jobs.c.job))) or 0) + 1
            still = {"attempts": 0, "beats": 0, "stop": False, "progress": 0.0, "message": "", "state": "waiting"}
            db.execute(insert(s.jobs).values(job=number, time=now, changed=now, key=key, **asked, **still))
            s.spend(db, seq, now)
        return number

    def keyed(self, key: str) -> Job | None:
        """The job asked for under a key."""
        return next(iter(self._jobs(s.jobs.c.key == key)), None)

    def job(self, number: int) -> Job:
        """A job. Raises UnknownId."""
        found = self._jobs(s.jobs.c.job == number)
        if not found:
            raise UnknownId(f"there is no job {number}; the pages Generate and Mix list yours")
        return found[0]

    def jobs(self, *, user: str | None = None, state: State | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first, of one person or of all, in one state or in any."""
        if state is not None and state not in get_args(State):
            raise UnknownName("state of a job", state, get_args(State))
        wanted = [] if user is None else [s.jobs.c.user == self.store.user(user).row]
        wanted += [] if state is None else [s.jobs.c.state == state]
        return self._jobs(*wanted, limit=limit)

    def ahead(self, number: int) -> int:
        """How many jobs wait in front of one that waits; 0 for any other."""
        job = self.job(number)
        if job.state != "waiting":
            return 0
        j = s.jobs.c
        same = j.device.in_([ANY, job.device]) if job.device != ANY else j.device.is_not(None)
        query = select(func.count()).select_from(s.jobs).where(j.state == "waiting", j.job < number, same)
        with self.store.reading() as db:
            return int(db.scalar(query) or 0)

    def cancel(self, number: int) -> Job:
        """Cancel: at once what waits, at the worker's next word what runs; what has ended stays as it is."""
        self.job(number)
        j = s.jobs.c
        with self.store.writing() as db:
            now = s.turn(db)[1]
            at_once = {"state": "cancelled", "message": "cancelled", "changed": now}
            db.execute(update(s.jobs).where(j.job == number, j.state == "waiting").values(**at_once))
            db.execute(update(s.jobs).where(j.job == number, j.state == "running").values(stop=True))
        return self.job(number)

    # -- for workers -------------------------------------------------------------------------------------------------

    def claim(self, worker: str, device: str) -> Job | None:
        """The oldest job this device may do: one that waits, or one whose worker has given no sign for a lease."""
        j = s.jobs.c
        with self.store.writing() as db:
            now = s.turn(db)[1]
            running = db.execute(select(j.job, j.beats, j.attempts, j.stop).where(j.state == "running")).all()
            clock = time.monotonic()
            self._looks = {(row.job, row.beats): self._looks.get((row.job, row.beats), clock) for row in running}
            for row in running:
                if clock - self._looks[row.job, row.beats] < self.lease:
                    continue
                state, message = "waiting", "its worker gave no sign; waiting for another"
                if row.stop:
                    state, message = "cancelled", "cancelled"
                elif row.attempts >= self.attempts:
                    state, message = "failed", f"its worker gave no sign, {row.attempts} times; given up"
                left = {"state": state, "message": message, "worker": None, "changed": now}
                db.execute(update(s.jobs).where(j.job == row.job).values(left))
            waits = select(j.job).where(j.state == "waiting", j.device.in_([ANY, device])).order_by(j.job).limit(1)
            number = db.scalar(waits)
            if number is None:
                return None
            mine = {"state": "running", "worker": worker, "attempts": j.attempts + 1, "beats": j.beats + 1}
            again = {"progress": 0.0, "message": "", "changed": now}
            db.execute(update(s.jobs).where(j.job == number).values(**mine, **again))
        return self.job(number)

    def beat(self, job: Job, progress: float | None = None, message: str | None = None) -> None:
        """Show that the worker of this claim lives, and how far it is. Raises Cancelled, LeaseLost."""
        j = s.jobs.c
        told: dict[str, Any] = {} if progress is None else {"progress": min(max(float(progress), 0.0), 1.0)}
        told |= {} if message is None else {"message": message[:_LONGEST]}
        if self._change(job, beats=j.beats + 1, **told):
            raise Cancelled(f"job {job.job} was cancelled")

    def finish(self, job: Job, result: Mapping[str, Any] | None = None) -> None:
        """The work is done. Raises LeaseLost; then the result is not taken."""
        text = None if result is None else _json(result, "result")
        self._change(job, state="done", progress=1.0, message="", result=text)

    def fail(self, job: Job, message: str) -> None:
        """The work cannot be done. Raises LeaseLost."""
        self._change(job, state="failed", message=message[:_LONGEST])

    def stopped(self, job: Job) -> None:
        """The worker has stopped because the job was cancelled. Raises LeaseLost."""
        self._change(job, state="cancelled", message="cancelled")

    def _change(self, job: Job, **values: Any) -> bool:
        """Change a job that is still this claim's; whether somebody asked to cancel it."""
        j = s.jobs.c
        mine = update(s.jobs).where(j.job == job.job, j.state == "running", j.attempts == job.attempts)
        with self.store.writing() as db:
            stop = db.scalar(mine.values(changed=s.turn(db)[1], **values).returning(j.stop))
        if stop is None:
            raise LeaseLost(f"job {job.job} is no longer this worker's (its claim number {job.attempts})")
        return bool(stop)

    def _jobs(self, *wanted: Any, limit: int = 1) -> list[Job]:
        query = select(s.jobs, s.users.c.id.label("who")).outerjoin(s.users, s.users.c.user == s.jobs.c.user)
        with self.store.reading() as db:
            rows = db.execute(query.where(*wanted).order_by(s.jobs.c.job.desc()).limit(limit)).all()
        return [
            Job(
                row.job, json.loads(row.work), row.who, row.device, tuple(json.loads(row.needs)), row.state, row.worker,
                row.progress, row.message, row.attempts, None if row.result is None else json.loads(row.result),
                row.time, row.changed,
            )
            for row in rows
        ]  # fmt: skip


def work_on(
    jobs: Jobs, work: Work, *, worker: str, device: str, stop: Callable[[], bool] = lambda: False, once: bool = False
) -> None:
    """A worker's life: claim, work, finish, until `stop()`; with `once` until nothing waits.

    `work(job, tell)` does a job and returns its result; `tell(progress, message)` says how far it is and raises
    Cancelled or LeaseLost, which the work lets pass. Whatever else it raises fails the job with that message, and with
    the names of the files it needs that are gone. While the store is away the worker waits.
    """
    while not stop():
        try:
            job = jobs.claim(worker, device)
            if job is not None:
                _do(jobs, job, work)
                continue
        except StoreDown:
            time.sleep(_PAUSE)
            continue
        if once:
            return
        time.sleep(_PAUSE)


def _do(jobs: Jobs, job: Job, work: Work) -> None:
    try:
        if gone := _gone(job):
            raise InvalidArgument(f"{gone} is not there; bring it back and order again")
        with _beating(jobs, job):
            result = work(job, lambda progress, message: jobs.beat(job, progress, message))
        jobs.finish(job, result)
    except Cancelled:
        with contextlib.suppress(LeaseLost):
            jobs.stopped(job)
    except (LeaseLost, StoreDown):
        return  # not ours any more, or soon not: whoever claims it next begins again
    except Exception as error:  # whatever it is, it is this job's; the next ones go on
        said = str(error) if isinstance(error, TastemakerError) else f"{type(error).__name__}: {error}"
        gone = _gone(job)
        with contextlib.suppress(LeaseLost):
            jobs.fail(job, f"{gone} vanished while the job ran ({said})" if gone and gone not in said else said)


@contextlib.contextmanager
def _beating(jobs: Jobs, job: Job) -> Iterator[None]:
    """Beats from a thread beside, for work that says nothing for longer than a lease."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(jobs.lease / 4):
            try:
                jobs.beat(job)
            except (Cancelled, LeaseLost):
                return  # the work hears of it when it next tells
            except StoreDown:
                continue

    thread = threading.Thread(target=beat, name=f"beats of job {job.job}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _gone(job: Job) -> str:
    return ", ".join(path for path in job.needs if not Path(path).exists())


def _json(value: Mapping[str, Any], what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the {what} is not JSON ({error}); expected a mapping of plain values") from error
