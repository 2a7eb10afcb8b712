"""The store against a dict: whatever is sent in whatever order, both tell the same."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tastemaker.choose.votes import pair
from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.serve.events import Conflict, Joined, Made, Said, Shown, Undone, Voted
from tastemaker.serve.store import Store

USERS, ITEMS = ["ann", "Žofie 👩‍🎨", "nobody"], ["p1", "p2", "p' --", "missing"]
users, items = st.sampled_from(USERS), st.sampled_from(ITEMS)
keys = st.none() | st.integers(0, 5).map("k{}".format)


class Compared(RuleBasedStateMachine):
    """A store and what a person with pencil and paper would write down."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "s.db")
        self.people: set[str] = set()
        self.things: dict[str, str | None] = {}
        self.shown: set[tuple[str, str]] = set()
        self.said: dict[int, tuple[str, str, int]] = {}
        self.voted: dict[int, str] = {}
        self.taken_back: dict[int, int] = {}
        self.keys: dict[str, tuple[object, int]] = {}
        self.seq = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def send(self, event, key, error, *, count: int = 1, known: int | None = None):
        """Send it; expect this error, or the number it should have. Returns the number where it is new."""
        if key in self.keys:
            first, seq = self.keys[key]
            if first == event:
                assert (receipt := self.store.add(event, key=key)).seq == seq
                assert receipt.repeated
                return None
            error = Conflict
        if error is not None:
            try:
                self.store.add(event, key=key)
            except error:
                return None
            raise AssertionError(f"{event} was taken; expected {error.__name__}")
        receipt = self.store.add(event, key=key)
        expected = self.seq + 1 if known is None else known
        assert (receipt.seq, receipt.repeated) == (expected, known is not None)
        if key is not None:
            self.keys[key] = event, receipt.seq
        if known is not None:
            return None
        self.seq += count
        return receipt.seq

    @rule(user=st.sampled_from(USERS[:2]), key=keys)
    def join(self, user, key) -> None:
        known = self.store.user(user).seq if user in self.people else None
        if self.send(Joined(user), key, None, known=known):
            self.people.add(user)

    @rule(item=st.sampled_from(ITEMS[:3]), model=st.sampled_from([None, "m"]), key=keys)
    def make(self, item, model, key) -> None:
        known = self.store.item(item).seq if item in self.things else None
        error = Conflict if item in self.things and self.things[item] != model else None
        if self.send(Made(item, model=model), key, error, known=known):
            self.things[item] = model

    @rule(user=users, some=st.lists(items, min_size=1, max_size=3, unique=True), key=keys)
    def show(self, user, some, key) -> None:
        error = None if user in self.people and set(some) <= self.things.keys() else UnknownId
        event = Shown(user, tuple(some), "x", (0.5,) * len(some))
        if self.send(event, key, error, count=len(some)):
            self.shown.update((user, item) for item in some)

    @rule(user=users, item=items, value=st.sampled_from([1, -1]), why=st.sampled_from([None, None, "link"]), key=keys)
    def say(self, user, item, value, why, key) -> None:
        error = None if user in self.people and item in self.things else UnknownId
        if error is None and why is None and (user, item) not in self.shown:
            error = InvalidArgument
        if seq := self.send(Said(user, item, value, unshown=why), key, error):
            self.said[seq] = user, item, value

    @rule(user=users, key=keys)
    def vote(self, user, key) -> None:
        error = None if user in self.people and {"p1", "p2"} <= self.things.keys() else UnknownId
        if seq := self.send(Voted(user, pair("p1", "p2")), key, error):
            self.voted[seq] = user

    @precondition(lambda self: self.seq > 0)
    @rule(user=users, data=st.data(), key=keys)
    def take_back(self, user, data, key) -> None:
        target = data.draw(st.sampled_from([*self.said, *self.voted, 1]))
        owner = self.said[target][0] if target in self.said else self.voted.get(target)
        error = None if user in self.people and owner == user else UnknownId
        if seq := self.send(Undone(user, target), key, error, known=self.taken_back.get(target)):
            self.taken_back[target] = seq

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(Path(self.folder.name) / "s.db")

    @invariant()
    def both_tell_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.seq() == self.seq
        force = {seq: said for seq, said in self.said.items() if seq not in self.taken_back}
        for user in self.people:
            words = {item: value for who, item, value in force.values() if who == user}
            assert {item: word.value for item, word in self.store.words(user).items()} == words
            assert self.store.seen(user) == {item for who, item in self.shown if who == user}
            past = [seq for seq, (who, *_) in self.said.items() if who == user]
            past += [seq for seq, who in self.voted.items() if who == user]
            assert [(one.seq, one.undone) for one in self.store.history(user)] == [
                (seq, seq in self.taken_back) for seq in sorted(past, reverse=True)
            ]
        assert [seq for seq, _ in self.store.votes()] == [seq for seq in self.voted if seq not in self.taken_back]
        log = self.store.log()
        told = zip(log.user_ids.ids(log.user), log.item_ids.ids(log.item), log.value, strict=True)
        assert list(told) == list(force.values())
        assert set(log.user_ids.series) == self.people


Compared.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreAgainstDict = Compared.TestCase
