"""The attacker who knows the detector: as effective as learned, as ordinary as it takes.

Every fake user gets an *alibi*, a real user whom the detector finds ordinary, and a *disguise* from 0 to 1: the share
of its fillers (what it clicks beside the targets) that gives way to clicks of the alibi, while the number of its clicks
goes from its own to the alibi's. At 1 it is a copy of the alibi that clicks the targets as well. The attacker asks the
detector about the whole poisoned log, again and again, and looks by bisection for the least disguise of each fake user
in which it is no more suspicious than a wanted quantile of the real users. Whom no disguise hides the targets give
away: it tries with half of its targets, then with one, and with its own clicks where that does not help either.

That quantile is the trade-off: fakes that all are at or below the quantile q have an AUC of at most q. Fillers that
many fakes share, on which a learned attack insists, go last, and the alibi is the one, of some drawn, that has most of
them.

What this is: a black-box search against any detector that scores a log. What it is not: the best an attacker could do.
Fillers come from learned and from real rows only, and the attack is not learned again with the detector in mind, so a
detector that survives this is not proven safe. `hidden` in the settings of the result is the share that got below.

Easy to get wrong: the fakes are part of the log, so what is ordinary moves with them, and so does the suspicion of one
fake with the others'. All are asked about together, and who is seen again after the bisection is disguised further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.detect import Detector
from tastemaker.attack.profiles import Fakes, poisoned
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Rng = int | np.random.Generator | None
Rows = NDArray[np.int32]
_CANDIDATES = 20  # real users of whom one becomes the alibi


def evade(
    log: FeedbackLog,
    fakes: Fakes,
    detector: Detector,
    *,
    quantile: float = 0.5,
    longest: int | None = None,
    steps: int = 5,
    rng: Rng = None,
) -> Fakes:
    """Fake users whom `detector` does not tell from real ones.

    Args:
        log: what the fakes were made for.
        quantile: of the real users' suspicion; a fake user at or below it needs no disguise.
        longest: the most clicks of a fake user beyond those it has, such as `usual_length(log)`; none by default. Where
            people click much more than the fakes, their number of clicks alone gives these away, and a tight budget
            leaves no disguise that hides.
        steps: of the bisection, and of disguising further after it. The detector is asked at most 6 steps + 3 times.

    Deterministic by seed. The settings of the result hold `detector`, `quantile`, `hidden` (share of the fakes at or
    below the quantile), `clicks` and `targets_clicked` (means of the fakes).
    """
    wanted = fakes.targets
    if not 0 < quantile < 1 or steps < 1 or (longest is not None and longest <= len(wanted)):
        raise InvalidArgument(
            f"quantile={quantile:g}, steps={steps}, longest={longest}; expected a quantile between 0 and 1, at least 1 "
            f"step, and more clicks than the {len(wanted)} targets"
        )
    draw = np.random.default_rng(rng)

    def ask(profiles: Sequence[Rows]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which fake users are too suspicious, (n_fakes,), and which real ones ordinary, (log.n_users,)."""
        score = detector.score(poisoned(log, replace(fakes, profiles=tuple(profiles))))
        real = score[: log.n_users]
        limit = np.quantile(real[real > -np.inf], quantile)
        return np.asarray(score[log.n_users :] > limit), np.asarray((real > -np.inf) & (real <= limit))

    caught, ordinary = ask(fakes.profiles)
    wardrobe = _wardrobe(log, fakes, np.flatnonzero(ordinary), longest, draw)
    worn = list(fakes.profiles)
    for n_targets in dict.fromkeys((len(wanted), -(-len(wanted) // 2), 1)):
        if not (seeks := np.flatnonzero(caught)).size:
            break
        masks = {fake: replace(wardrobe[fake], targets=np.roll(wanted, -fake)[:n_targets]) for fake in seeks}
        low, high = np.zeros(len(fakes)), np.ones(len(fakes))
        for step in range(2 * steps):  # bisection, then further for those who are seen because others changed
            tried = (low + high) / 2 if step < steps else high
            for fake in seeks:
                worn[fake] = masks[fake].profile(float(tried[fake]))
            seen, _ = ask(worn)
            if step < steps:
                low, high = np.where(seen, tried, low), np.where(seen, high, tried)
            else:
                high = np.where(seen, (1 + high) / 2, high)
        for fake in seeks:
            worn[fake] = masks[fake].profile(1.0 if high[fake] > 1 - 0.5 ** (steps + 1) else float(high[fake]))
        caught = ask(worn)[0]
    for fake in np.flatnonzero(caught):  # a disguise that does not hide costs effect for nothing
        worn[fake] = fakes.profiles[fake]
    settings = {**fakes.settings, "detector": repr(detector), "quantile": quantile, "longest": longest}
    settings |= {"hidden": 1 - float(ask(worn)[0].mean()), "clicks": float(np.mean([len(one) for one in worn]))}
    settings["targets_clicked"] = float(np.mean([np.isin(wanted, one).sum() for one in worn]))
    return replace(fakes, profiles=tuple(worn), method=f"{fakes.method} evading", settings=settings)


def usual_length(log: FeedbackLog, share: float = 0.9) -> int:
    """The number of clicks that this share of the people with a click does not exceed."""
    length = np.diff(real_clicks(log).indptr)
    return int(np.quantile(length[length > 0], share))


@dataclass(frozen=True, eq=False)
class _Mask:
    """What a fake user can wear: targets; own fillers, those to keep longest first; clicks of the alibi, those it has
    itself first; and the most clicks it may have."""

    targets: Rows
    own: Rows
    alibi: Rows
    longest: int

    def profile(self, disguise: float) -> Rows:
        """Item rows, ascending."""
        end = min(len(self.alibi), self.longest - len(self.targets))
        n = round((1 - disguise) * len(self.own) + disguise * end)
        kept = self.own[: min(n, round((1 - disguise) * len(self.own)))]
        fill = self.alibi[~np.isin(self.alibi, kept)][: n - len(kept)]
        return np.sort(np.r_[self.targets, kept, fill]).astype(np.int32)


def _wardrobe(
    log: FeedbackLog, fakes: Fakes, ordinary: NDArray[np.intp], longest: int | None, draw: np.random.Generator
) -> list[_Mask]:
    """A mask for each fake user; no real user is the alibi of two while there are others who fit."""
    clicks = real_clicks(log)
    length, shared = np.diff(clicks.indptr), np.bincount(np.concatenate(fakes.profiles), minlength=log.n_items)
    free, masks = np.ones(log.n_users, bool), []
    for profile in fakes.profiles:
        own = np.setdiff1d(profile, fakes.targets)
        own = own[np.argsort(-(shared[own] + draw.random(len(own))))]
        most = max(longest or 0, len(profile))
        fits = ordinary[length[ordinary] <= most - len(fakes.targets)]
        if len(fits) < _CANDIDATES:  # too long ones are cut, so the shortest of them
            fits = ordinary[np.argsort(length[ordinary], kind="stable")[: max(_CANDIDATES, len(ordinary) // 10)]]
        fits = fits[free[fits]] if free[fits].any() else fits
        some = draw.choice(fits, min(_CANDIDATES, len(fits)), replace=False)
        rows: list[Rows] = [_row(clicks, user) for user in some]
        best = int(np.argmax([np.isin(own, row).sum() for row in rows]))
        free[some[best]] = False
        alibi = draw.permutation(np.setdiff1d(rows[best], fakes.targets))
        masks.append(_Mask(fakes.targets, own, alibi[np.argsort(~np.isin(alibi, own), kind="stable")], most))
    return masks


def _row(matrix: sparse.csr_matrix, row: int) -> Rows:
    return np.asarray(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]], np.int32)
