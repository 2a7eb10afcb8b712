"""Learning while serving: what people say counts at once, models are refitted beside, and any version can come back.

A *version* is the global model: the items' side of `Factors`, and a board of models from votes. It is a folder on disk
(`serve.versions`).

What is personal is never saved: a list is solved for from the version in force and the person's words up to now
(`serve.taste`), a leaderboard adds the votes since the fit (`serve.board`). So a like counts in the next list, on every
server of the store; and rolling back takes back the model, not what people said: who has said nothing since gets the
same list as before.

Every server looks before it answers which version is in force. A reader holds one version from beginning to end of a
request.
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tastemaker import columns as c
from tastemaker.choose.belief import Belief, Leaderboard, Prior
from tastemaker.choose.votes import Vote
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.generate import record
from tastemaker.recommend.factors import Factors
from tastemaker.serve import schema as s
from tastemaker.serve.board import Board, Tally, on_models
from tastemaker.serve.store import Item, Stand, Store
from tastemaker.serve.taste import Heard, Picks, Reason, Taste, draw
from tastemaker.serve.trust import Since, Vetted, Watch, weighed, weights
from tastemaker.serve.versions import Fitted, Version, Versions

Weigh = Callable[[FeedbackLog], NDArray[np.float64]]
_TALLIES = 256  # persons whose boards are remembered
_EVERYTHING = Vetted()  # on one's own board every vote of one's own counts in full


@dataclass(frozen=True)
class Plan:
    """How to learn. For a fit in a process of its own the functions must be importable by name.

    Attributes:
        model: configured, not fitted.
        prior: of the boards.
        persons: how many, of those who vote most, get a belief of their own.
        weigh: weight of each event of a log, such as inverse propensities.
        trust: finds people whose votes and likes are to count less; None trusts everybody alike.
        keep: versions on disk; older ones are deleted, but not the one in force.
    """

    model: Factors = dataclasses.field(default_factory=Factors)
    prior: Prior = dataclasses.field(default_factory=Prior)
    persons: int = 200
    weigh: Weigh | None = None
    trust: Watch | None = None
    keep: int = 20


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Every item of a store by its row, the row of each, the model of each (itself where it has none), all models."""

    items: tuple[Item, ...] = ()
    row: Mapping[str, int] = dataclasses.field(default_factory=dict)
    model_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    models: tuple[str, ...] = ()
    made: bool = False  # whether a model has made anything

    def extended(self, fresh: Sequence[Item]) -> Catalogue:
        model_of = {item.id: item.model or item.id for item in fresh}
        models = tuple(dict.fromkeys((*self.models, *model_of.values())))
        made = self.made or any(item.model for item in fresh)
        row = {item.id: item.row for item in fresh}
        return Catalogue((*self.items, *fresh), {**self.row, **row}, {**self.model_of, **model_of}, models, made)


class Learner:
    """Lists and leaderboards of a store, from the version in force and all that was said since."""

    def __init__(self, store: Store, folder: str | Path, plan: Plan | None = None) -> None:
        """Raises DataError where the folder's version in force cannot be read."""
        self.store, self.folder, self.plan = store, Path(folder), plan or Plan()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._gate = threading.Lock()  # for loading, the catalogue and the tallies; lists are drawn outside it
        self._boarding = threading.Lock()  # for everybody's leaderboard
        self._versions = Versions(self.folder, self.plan.prior)
        self._stamp: object = None
        self._current, self._newest = self._versions.read(0), self._versions.newest()
        self._vetted = self._vet()
        self._tallies: dict[str | None, Tally] = {}
        self._board: tuple[Belief, float, Leaderboard] | None = None  # everybody's, while no vote comes in
        self._catalog = Catalogue()
        self._fits: ProcessPoolExecutor | None = None
        self._fitting: Future[Version] | None = None
        self._look()
        self._catalogue()

    def close(self) -> None:
        """End the process that fits, if there is one, after its fit."""
        if self._fits is not None:
            self._fits.shutdown()

    @property
    def version(self) -> Version:
        """The version in force."""
        return self._look().version

    @property
    def newest(self) -> Version:
        """The newest version; another one may be in force, pinned."""
        self._look()
        return self._newest

    # -- lists and boards --------------------------------------------------------------------------------------------

    def recommend(
        self,
        user: str,
        k: int = 12,
        *,
        among: Collection[str] | NDArray[np.bool_] | None = None,
        stand: Stand | None = None,
        unseen_only: bool = False,
        explore: float = 0.1,
        reasons: int = 0,
        rng: np.random.Generator,
    ) -> Picks:
        """A list for a person: at most k items, none they have spoken about.

        Args:
            among: only these, by id, or True for each row that may come (none beyond its end); all items by default.
            stand: of this person, where it was asked for already.
            unseen_only: none they were ever shown.
            explore: share of places filled with any item, each alike.
            reasons: how many words to name for each, as `why` does.

        Raises UnknownId for a person or an item the store does not know, InvalidArgument.
        """
        current, stand = self._look(), stand or self.store.stand(user)
        catalogue = self._catalogue(stand.n_items)
        items = catalogue.items
        allowed = np.full(len(items), among is None)
        if isinstance(among, np.ndarray):
            allowed[: len(among)] = among[: len(items)]
        elif among is not None:
            allowed[_rows(among, catalogue.row)] = True
        allowed[stand.items] = False
        if unseen_only:
            allowed[stand.shown] = False
        scores = np.full(len(items), np.nan, np.float32)
        why: dict[int, list[Reason]] = {}
        if (taste := current.taste) is None:
            chosen, probabilities = draw(scores, np.flatnonzero(allowed), k, explore, rng)
            policy = "random"
        else:
            known = len(taste.offset)
            said = _known(stand, known)
            heard = taste.heard(*said)
            scores[:known] = taste.scores(taste.person(heard))
            chosen, probabilities = draw(scores, np.flatnonzero(allowed), k, explore, rng)
            policy = f"factors/{current.version.version} explore {explore:g}"
            if reasons:
                why = _reasons(taste, heard, items, said, [at for at in chosen if at < known], reasons)
        given = tuple(None if math.isnan(score) else score for score in scores[chosen].tolist())
        named = tuple(tuple(why.get(at, ())) for at in chosen)
        likes = int((stand.values > 0).sum())
        return Picks(
            tuple(items[at].id for at in chosen), given, policy, tuple(probabilities), named,
            likes, len(stand.values) - likes, current.version.version,
        )  # fmt: skip

    def why(self, user: str, item: str, n: int = 3) -> list[tuple[str, int, float]]:
        """The n words that count most in a person's score of an item: (item spoken about, +1 or -1, share of score).

        Empty where the person has said nothing, or the version in force does not know the item.
        """
        current, stand = self._look(), self.store.stand(user)
        catalogue = self._catalogue(stand.n_items)
        at = int(_rows([item], catalogue.row)[0])
        if current.taste is None or at >= len(current.taste.offset):
            return []
        said = _known(stand, len(current.taste.offset))
        return _reasons(current.taste, current.taste.heard(*said), catalogue.items, said, [at], n)[at]

    def leaderboard(self, *, person: str | None = None, level: float = 0.95) -> Leaderboard:
        """The board of `belief`. Raises what that raises."""
        belief = self.belief(person=person)
        if person is not None:
            return belief.leaderboard(level=level)
        with self._boarding:  # who comes meanwhile waits for this one, and makes none of their own
            if self._board is None or self._board[0] is not belief or self._board[1] != level:
                self._board = belief, level, belief.leaderboard(level=level)
            return self._board[2]

    def belief(self, *, person: str | None = None) -> Belief:
        """What is believed of the models by everybody's votes, or by a person's taste, with every vote up to now.

        Raises InvalidArgument where no model has made anything, UnknownId for a person the store does not know.
        """
        current, seq = self._look(), self.store.seq()
        catalogue = self._catalogue()  # after what it must hold
        if not catalogue.made:
            raise InvalidArgument("no model has made anything yet; store Made(item, model=...) first")
        if person is not None:
            self.store.user(person)
        with self._gate:
            tally = self._tallies.pop(person, None)
            vetted = self._vetted if person is None else _EVERYTHING
            if tally is None or tally.board is not current.board or tally.vetted is not vetted:
                tally = Tally.begin(current.board, person, vetted)
            self._tallies[person] = tally = tally.caught_up(self.store, seq, catalogue.model_of, catalogue.models)
            while len(self._tallies) > _TALLIES:
                del self._tallies[next(iter(self._tallies))]
        return tally.belief

    @property
    def vetted(self) -> Vetted:
        """What the newest fit knows of voters; a version that was rolled back to has not forgotten it."""
        self._look()
        return self._vetted

    def trusted(self, votes: Sequence[tuple[int, Vote]]) -> list[Vote]:
        """Of votes with their numbers, those that count now, with the weights that their persons deserve."""
        return self.vetted.counted(votes)[0]

    def waiting(self) -> int:
        """Votes that count on everybody's board only when the next fit has looked at them."""
        return self._since().waiting

    def crowded(self) -> bool:
        """Whether as many votes came since the last fit as count before the next."""
        return self._since().weight + 1 > self.vetted.room

    # -- versions ----------------------------------------------------------------------------------------------------

    def refit(self, *, rng: int = 0) -> Version:
        """Fit a version from everything stored, here and now, save it, and put it in force unless one is pinned.

        Raises InvalidArgument where nothing was said yet.
        """
        return learn(self.store, self.folder, self.plan, rng)

    def refit_in_background(self, *, rng: int = 0) -> Future[Version] | None:
        """`refit` in a process of its own, at low priority; one at a time: while it runs, the same future.

        None while another server of the same folder fits.
        """
        with self._gate:
            if self._fitting is None or self._fitting.done():
                if (turn := _turn(self.folder)) is None:
                    return None
                if self._fits is None:
                    context = multiprocessing.get_context("spawn")
                    self._fits = ProcessPoolExecutor(1, mp_context=context, initializer=os.nice, initargs=(5,))
                self._fitting = self._fits.submit(_learn_from, self.store.where, self.folder, self.plan, rng)
                self._fitting.add_done_callback(lambda _: turn.close())
            return self._fitting

    def behind(self) -> int:
        """Events since the version in force was fitted; when to refit is the caller's to say."""
        return self.store.seq() - self._look().version.seq

    def versions(self) -> list[Version]:
        """Every version on disk, oldest first."""
        return [self._versions.describe(number) for number in self._versions.numbers()]

    def use(self, version: int) -> Version:
        """Put a version in force and pin it: later fits are saved, and wait. Raises UnknownName."""
        self._versions.use(version)
        return self.version

    def roll_back(self) -> Version:
        """Put the version before the one in force in force, and pin it. Raises InvalidArgument where there is none."""
        self._versions.roll_back()
        return self.version

    def follow(self) -> Version:
        """Put the newest version in force, and every later one as it comes. Raises InvalidArgument before the first."""
        self._versions.follow()
        return self.version

    # -- what is at hand ---------------------------------------------------------------------------------------------

    def _look(self) -> Fitted:
        """The version in force: loaded anew where another was put in force, by whomever; only one thread waits."""
        stamp = self._versions.stamp()
        if stamp is not None and stamp != self._stamp and self._gate.acquire(blocking=self._stamp is None):
            try:
                number = self._versions.in_force().version
                if number != self._current.version.version:
                    self._current = self._versions.read(number)
                self._stamp, self._newest = stamp, self._versions.newest()
                self._vetted = self._vet()
            finally:
                self._gate.release()
        return self._current

    def _since(self) -> Since:
        """What came of the votes since the last fit, as far as everybody's board was asked for."""
        with self._gate:
            tally = self._tallies.get(None)
        return Since() if tally is None or tally.vetted is not self.vetted else tally.since

    def _vet(self) -> Vetted:
        newest, trust = self._newest, self.plan.trust
        return trust.vetted(newest.seq, newest.votes, newest.doubts) if trust else Vetted(doubts=newest.doubts)

    def _catalogue(self, n: int | None = None) -> Catalogue:
        """The items of the store; n of them at least, all there are if None."""
        if n is not None and len(self._catalog.items) >= n:
            return self._catalog
        with self._gate:  # forty threads that all read the first 20,000 would take half a minute
            if fresh := self.store.items(start=len(self._catalog.items)):
                self._catalog = self._catalog.extended(fresh)
        return self._catalog


# -- fitting -----------------------------------------------------------------------------------------------------------


def learn(store: Store, folder: Path, plan: Plan, rng: int) -> Version:
    """See `Learner.refit`."""
    versions, seq = Versions(folder), store.seq()
    log = store.log(last=True, upto=seq)
    model_of = {item.id: item.model or item.id for item in store.items()}
    votes = [vote for _, one in store.votes(upto=seq) if (vote := on_models(one, model_of)).choices]
    doubts = plan.trust.doubts(votes, log) if plan.trust else ()
    votes = weighed(votes, doubts)
    board = Board.fit(votes, list(dict.fromkeys(model_of.values())), plan.prior, persons=plan.persons, seq=seq)
    if not len(log) and board is None:
        raise InvalidArgument("nobody has said anything yet; there is nothing to learn from")
    with tempfile.TemporaryDirectory(dir=folder, prefix="fitting-") as made:
        new = Path(made) / "version"
        new.mkdir()
        if len(log):
            weight = plan.weigh(log) if plan.weigh else None
            if doubts:
                weight = weights(log, doubts) * (1.0 if weight is None else weight)
            dataclasses.replace(plan.model).fit(_of_speakers(log), weight=weight, rng=rng).save(new / "factors")
        if board is not None:
            save_file(board.arrays(), new / "board.safetensors")
        number = (versions.numbers() or [0])[-1] + 1
        while (folder / str(number)).exists():
            number += 1
        version = Version(
            number, seq, s.now(), len(log), len(votes),
            () if board is None else tuple(board.crowd.ids.series), () if board is None else tuple(board.persons),
            doubts,
        )  # fmt: skip
        (new / "version.json").write_text(record.write(version) + "\n", encoding="utf-8")
        new.rename(folder / str(number))
    versions.fitted(number)
    for old in versions.numbers()[: -plan.keep]:
        if old != versions.in_force().version:
            shutil.rmtree(folder / str(old))
    return version


def _turn(folder: Path) -> IO[str] | None:
    """The right to fit, which one server of a folder has at a time, until it closes this or dies; None if another."""
    file = (folder / "fitting.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass  # a network folder that knows no locks: two that fit at once waste time and harm nothing
    return file


def _learn_from(where: str, folder: Path, plan: Plan, rng: int) -> Version:
    with Store(where) as store:
        return learn(store, folder, plan, rng)


def _of_speakers(log: FeedbackLog) -> FeedbackLog:
    """The log without the people who said nothing: they would pull all items towards 0. Items keep their rows."""
    speakers = log.users
    rows = pl.Series(c.USER, np.searchsorted(speakers, log.user).astype(np.int32))
    return FeedbackLog(log.events.with_columns(rows), Vocabulary(log.user_ids.ids(speakers)), log.item_ids)


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(ids: Collection[str], row: Mapping[str, int]) -> NDArray[np.int32]:
    try:
        return np.array([row[id] for id in ids], np.int32)
    except KeyError as error:
        raise UnknownId(f"nothing is called {error}; store Made({error}) first") from error


def _reasons(
    taste: Taste, heard: Heard, items: Sequence[Item], said: tuple[NDArray[np.int32], NDArray[np.int32]],
    chosen: list[int], n: int,
) -> dict[int, list[Reason]]:  # fmt: skip
    """For each row the n words that count most in its score."""
    shares = taste.why(heard, np.array(chosen, np.int32))
    most = np.argsort(-np.abs(shares), axis=0, kind="stable")[:n]
    rows, values = (one[most].T.tolist() for one in said)
    counts = np.take_along_axis(shares, most, axis=0).T.tolist()
    return {
        one: [(items[row].id, value, share) for row, value, share in zip(*of, strict=True)]
        for one, *of in zip(chosen, rows, values, counts, strict=True)
    }


def _known(stand: Stand, n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows and values of the words about the first n items, those a model knows."""
    known = stand.items < n
    return stand.items[known], stand.values[known]
