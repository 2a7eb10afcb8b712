"""The queue: order, leases, crashes, cancelling, with real processes."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tastemaker.errors import DataError, InvalidArgument, UnknownId, UnknownName
from tastemaker.serve.events import Conflict, Joined
from tastemaker.serve.jobs import Cancelled, Job, Jobs, LeaseLost, work_on
from tastemaker.serve.store import Store

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def worker(
    where: str, name: str = "w", device: str = "cpu", lease: float = 30.0
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", "tests.serve.worker", where, name, device, str(lease)], cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def until(jobs: Jobs, number: int, reached: Callable[[Job], bool], within: float = 60) -> Job:
    end = time.monotonic() + within
    while not reached(job := jobs.job(number)):
        assert time.monotonic() < end, job
        time.sleep(0.02)
    return job


def test_first_come_first_served(store: Store) -> None:
    jobs = Jobs(store)
    store.add(Joined("a"))
    numbers = [jobs.enqueue({"n": n}, user="a" if n else None, device="cuda:0" if n == 1 else "any") for n in range(4)]
    assert numbers == [1, 2, 3, 4]
    assert [jobs.ahead(number) for number in numbers] == [0, 1, 2, 3]
    assert [job.job for job in jobs.jobs(user="a")] == [4, 3, 2]
    assert [jobs.claim("w", "cpu").job, jobs.claim("v", "cpu").job] == [1, 3]
    assert jobs.claim("g", "cuda:0").job == 2
    assert [job.state for job in jobs.jobs()] == ["waiting", "running", "running", "running"]
    assert [job.job for job in jobs.jobs(state="waiting")] == [4]
    done = []
    work_on(jobs, lambda job, tell: done.append(job.work) or {"n": 1}, worker="w", device="cpu", once=True)
    assert done == [{"n": 3}]
    job = jobs.job(4)
    assert (job.state, job.result, job.progress, job.user, job.worker) == ("done", {"n": 1}, 1.0, "a", "w")
    assert jobs.claim("w", "cpu") is None


def test_a_key_stands_for_one_job(store: Store) -> None:
    jobs = Jobs(store)
    assert jobs.enqueue({"n": 1}, key="k") == jobs.enqueue({"n": 1}, key="k") == 1
    with pytest.raises(Conflict):
        jobs.enqueue({"n": 2}, key="k")


def test_what_makes_no_sense(file: Store) -> None:
    jobs = Jobs(file)
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(InvalidArgument, match="JSON"):
            jobs.enqueue(bad)
    with pytest.raises(UnknownId):
        jobs.enqueue({}, user="nobody")
    with pytest.raises(UnknownId):
        jobs.job(1)
    with pytest.raises(UnknownId):
        jobs.cancel(1)
    with pytest.raises(UnknownName, match="waiting"):
        jobs.jobs(state="waitin")
    with pytest.raises(InvalidArgument):
        Jobs(file, lease=0)


def test_failing_says_why_and_the_next_goes_on(store: Store) -> None:
    jobs = Jobs(store)

    def work(job: Job, tell) -> None:
        if job.work["n"] == 0:
            raise DataError("the weights are truncated", file="model")
        if job.work["n"] == 1:
            raise ZeroDivisionError("x" * 5000)

    for n in range(3):
        jobs.enqueue({"n": n})
    work_on(jobs, work, worker="w", device="cpu", once=True)
    assert [job.state for job in reversed(jobs.jobs())] == ["failed", "failed", "done"]
    assert jobs.job(1).message == "model: the weights are truncated"
    assert jobs.job(2).message.startswith("ZeroDivisionError: xxx")


def test_cancelling(store: Store) -> None:
    jobs = Jobs(store)
    first, second = jobs.enqueue({}), jobs.enqueue({})
    assert jobs.cancel(second).state == "cancelled"
    steps = []

    def work(job: Job, tell) -> None:
        for step in range(10):
            if step == 3:
                jobs.cancel(first)
            tell(step / 10, f"step {step}")
            steps.append(step)

    work_on(jobs, work, worker="w", device="cpu", once=True)
    assert steps == [0, 1, 2]
    assert jobs.job(first).state == "cancelled"
    assert jobs.cancel(first).state == "cancelled"
    third = jobs.enqueue({})
    work_on(jobs, lambda job, tell: None, worker="w", device="cpu", once=True)
    assert jobs.cancel(third).state == "done"  # what has ended stays as it is


def test_a_lease_runs_out_by_the_next_workers_own_clock(store: Store) -> None:
    slow, next_one = Jobs(store, lease=0.3, attempts=2), Jobs(store, lease=0.3, attempts=2)
    slow.enqueue({})
    mine = slow.claim("slow", "cpu")
    assert next_one.claim("next", "cpu") is None  # its first look
    time.sleep(0.2)
    slow.beat(mine, 0.5, "half")
    time.sleep(0.2)
    assert next_one.claim("next", "cpu") is None  # it beat since
    time.sleep(0.35)
    theirs = next_one.claim("next", "cpu")
    assert (theirs.job, theirs.attempts, theirs.progress) == (mine.job, 2, 0)
    for late in (
        lambda: slow.beat(mine),
        lambda: slow.finish(mine),
        lambda: slow.fail(mine, ""),
        lambda: slow.stopped(mine),
    ):
        with pytest.raises(LeaseLost):
            late()
    slow.claim("slow", "cpu")
    time.sleep(0.35)
    assert slow.claim("slow", "cpu") is None
    assert (slow.job(1).state, slow.job(1).message) == ("failed", "its worker gave no sign, 2 times; given up")
    with pytest.raises(LeaseLost):
        next_one.finish(theirs)


def test_silent_work_keeps_its_lease(store: Store) -> None:
    jobs, other = Jobs(store, lease=0.4), Jobs(store, lease=0.4)
    jobs.enqueue({})
    stolen = []

    def work(job: Job, tell) -> None:
        for _ in range(12):
            time.sleep(0.1)
            stolen.append(other.claim("thief", "cpu"))

    work_on(jobs, work, worker="w", device="cpu", once=True)
    assert stolen == [None] * 12
    assert jobs.job(1).state == "done"


def test_a_cancelled_job_of_a_dead_worker(store: Store) -> None:
    jobs = Jobs(store, lease=0.2)
    jobs.enqueue({})
    mine = jobs.claim("dead", "cpu")
    jobs.cancel(1)
    jobs.claim("w", "cpu")
    time.sleep(0.25)
    assert jobs.claim("w", "cpu") is None
    assert jobs.job(1).state == "cancelled"
    with pytest.raises(LeaseLost):
        jobs.beat(mine)


def test_the_running_worker_hears_of_it(store: Store) -> None:
    jobs = Jobs(store)
    jobs.enqueue({})
    mine = jobs.claim("w", "cpu")
    jobs.cancel(1)
    with pytest.raises(Cancelled):
        jobs.beat(mine)
    jobs.stopped(mine)
    assert jobs.job(1).state == "cancelled"


def test_a_killed_worker(where: str) -> None:
    with Store(where) as store:
        jobs = Jobs(store)
        number = jobs.enqueue({"steps": 12})
        with worker(where, "first", lease=0.7):
            until(jobs, number, lambda job: job.progress > 0.3)
        before = len(store.items(job=number))
        assert before >= 4
        with worker(where, "second", lease=0.7):
            job = until(jobs, number, lambda job: job.state == "done")
        assert (job.attempts, job.result) == (2, {"pictures": 12, "by": "second"})
        assert [item.id for item in store.items(job=number)] == [f"job {number} picture {n}" for n in range(12)]


def test_workers_share_and_nothing_is_done_twice(where: str) -> None:
    with Store(where) as store:
        jobs = Jobs(store)
        numbers = [jobs.enqueue({"steps": 1}) for _ in range(12)]
        with worker(where, "one"), worker(where, "two"):
            for number in numbers:
                until(jobs, number, lambda job: job.state == "done")
        assert {job.attempts for job in jobs.jobs()} == {1}
        assert {job.worker for job in jobs.jobs()} <= {"one", "two"}


def test_a_model_that_vanishes(tmp_path: Path) -> None:
    where, model = str(tmp_path / "s.db"), tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"x")
    with Store(where) as store:
        jobs = Jobs(store)
        number = jobs.enqueue({"steps": 1000, "model": str(model)}, needs=[model])
        with worker(where):
            until(jobs, number, lambda job: job.progress > 0)
            shutil.rmtree(model)
            job = until(jobs, number, lambda job: job.state == "failed")
            assert str(model) in job.message
            second = jobs.enqueue({"steps": 1}, needs=[model])
            job = until(jobs, second, lambda job: job.state == "failed")
            assert "is not there; bring it back" in job.message


def test_the_queue_survives_a_restart(where: str) -> None:
    with Store(where) as store:
        jobs = Jobs(store)
        jobs.enqueue({"n": 1}, needs=["x"])
        jobs.enqueue({"n": 2})
        jobs.cancel(2)
    with Store(where) as store:
        first = Jobs(store).job(1)
        assert (first.state, first.work, first.needs) == ("waiting", {"n": 1}, ("x",))
        assert Jobs(store).job(2).state == "cancelled"
