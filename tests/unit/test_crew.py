"""Jobs are done side by side: those about the same thing one after another, never more at once than there are hands."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tasks.crew import Crew, Job
from tests.helpers.waiting import wait_until


@dataclass
class Jobs:
    """Jobs that go on until they are told to end."""

    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    is_more: bool = True

    def about(self, *names: str) -> Callable[[], Iterator[Job]]:
        """Find jobs about these."""

        def job(name: str) -> Job:
            def act() -> bool:
                self.began.append(name)
                assert self.gate(name).wait(30)
                self.ended.append(name)
                return self.is_more

            return name, act

        return lambda: (job(name) for name in names)

    def gate(self, name: str) -> threading.Event:
        """Return what lets a job end."""
        return self.gates.setdefault(name, threading.Event())

    def end(self, *names: str) -> None:
        """Let jobs end, and wait until they have."""
        for name in names:
            self.gate(name).set()
        wait_until(lambda: set(names) <= set(self.ended))


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    for gate in made.gates.values():
        gate.set()


def test_a_job_that_hangs_holds_up_no_other(jobs: Jobs) -> None:
    crew = Crew({"look": 2})
    crew.give("look", jobs.about("one", "two"))
    jobs.end("two")

    assert jobs.ended == ["two"]


def test_there_are_never_more_jobs_of_a_kind_than_hands_for_it(jobs: Jobs) -> None:
    crew = Crew({"look": 2, "poll": 1})
    crew.give("look", jobs.about("one", "two", "three"))
    crew.give("poll", jobs.about("repo"))
    wait_until(lambda: len(jobs.began) == 3)
    assert sorted(jobs.began) == ["one", "repo", "two"]

    jobs.end("one", "two", "repo")
    assert crew.wait(30)
    assert "three" not in jobs.began


def test_when_all_hands_are_busy_nothing_is_even_looked_for(jobs: Jobs) -> None:
    def read() -> Iterator[Job]:
        raise AssertionError("asked")

    crew = Crew({"look": 1})
    crew.give("look", jobs.about("one"))
    crew.give("look", read)

    jobs.end("one")


def test_what_is_about_the_same_thing_waits_whatever_its_kind(jobs: Jobs) -> None:
    crew = Crew({"look": 2, "effect": 2})
    crew.give("look", jobs.about("one"))
    crew.give("effect", jobs.about("one", "two"))
    jobs.end("one", "two")
    assert crew.wait(30)
    assert sorted(jobs.began) == ["one", "two"]

    crew.give("effect", jobs.about("one"))
    assert crew.wait(30)
    assert sorted(jobs.began) == ["one", "one", "two"]


def test_what_was_read_before_a_job_about_it_had_ended_is_not_begun(jobs: Jobs) -> None:
    """It may have done that already."""
    crew = Crew({"look": 2})
    crew.give("look", jobs.about("one"))

    def read() -> Iterator[Job]:
        found = list(jobs.about("one")())
        jobs.end("one")
        assert crew.wait(30)
        return iter(found)

    crew.give("look", read)
    assert crew.wait(30)
    assert jobs.began == ["one"]


@pytest.mark.parametrize("is_more", [True, False])
def test_the_end_of_a_job_is_told_if_more_may_be_due(jobs: Jobs, is_more: bool) -> None:  # noqa: FBT001 - a case
    told = threading.Event()
    crew = Crew({"look": 1}, on_end=told.set)
    jobs.is_more = is_more
    crew.give("look", jobs.about("one"))
    jobs.gate("one").set()
    assert crew.wait(30)
    for thread in threading.enumerate():
        if thread.name == "steward-look":
            thread.join(30)

    assert told.is_set() == is_more


def test_a_machine_without_threads_to_spare_leaves_the_job_for_later(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    crew = Crew({"look": 1})
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            crew.give("look", jobs.about("one"))

    crew.give("look", jobs.about("one"))
    jobs.end("one")


def test_waiting_tells_whether_all_is_done(jobs: Jobs) -> None:
    crew = Crew({"look": 1})
    assert crew.wait(0)
    crew.give("look", jobs.about("one"))
    assert not crew.wait(0)

    jobs.end("one")
    assert crew.wait(30)


def test_without_a_crew_jobs_are_done_at_once(jobs: Jobs) -> None:
    for name in ("one", "two"):
        jobs.gate(name).set()
    Crew().give("look", jobs.about("one", "two"))

    assert jobs.ended == ["one", "two"]
