"""Attacks by somebody who sees a part of the log: any rule or learned attack, on what is seen, clicking only that.

`bilevel.attack` takes a `Knowledge` itself. Everything else makes its fake users for the log of a `View`, which holds
only what is seen, and `View.back` says which items of the whole log they click.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.attack.profiles import Fakes, Knowledge, generator, target_rows
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class View:
    """What is seen.

    Attributes:
        log: the likes that are seen, of people and items numbered anew; nobody in it is without one.
        targets: their rows in it.
        items: for each of its items the row in the whole log, ascending.
        n_items: of the whole log.
        knowledge: how much that is.
    """

    log: FeedbackLog
    targets: NDArray[np.int32]
    items: NDArray[np.int32]
    n_items: int
    knowledge: Knowledge

    def back(self, fakes: Fakes) -> Fakes:
        """The same fake users for the whole log.

        Raises InvalidArgument for fakes that were made for another log.
        """
        if fakes.n_items != len(self.items):
            raise InvalidArgument(f"fakes of {fakes.n_items} items for a view of {len(self.items)}; expected its own")
        profiles = tuple(self.items[profile] for profile in fakes.profiles)
        settings = {**fakes.settings, **{f"sees_{what}": share for what, share in asdict(self.knowledge).items()}}
        return replace(
            fakes, profiles=profiles, n_items=self.n_items, targets=self.items[fakes.targets], settings=settings
        )


def view(
    log: FeedbackLog, targets: ArrayLike, knowledge: Knowledge, *, rng: int | np.random.Generator | None = None
) -> View:
    """Draw what an attacker with this knowledge sees of a signed log; `targets` (item rows) always.

    Raises UnknownId for targets that do not exist, InvalidArgument where no like is left to see.
    """
    rows = target_rows(log, targets)
    real, items = knowledge.view(log, rows, generator(rng))
    user, item = real.nonzero()
    seen = FeedbackLog.of(
        user, item, np.ones(len(user)),
        user_ids=Vocabulary.range(real.shape[0]), item_ids=Vocabulary.range(real.shape[1]),
    )  # fmt: skip
    return View(seen, np.searchsorted(items, rows).astype(np.int32), items, log.n_items, knowledge)
