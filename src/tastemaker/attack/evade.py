"""The attacker who knows the detector: fake users that look more like real ones.

Each fake user has an alibi, a real user of about as many clicks. As long as the detector finds a fake user more
suspicious than a given quantile of the real users, a larger part of its fillers (the clicks beside the targets) is
exchanged for clicks of the alibi, until all are. Learned fillers lose effect by that; random ones may gain, because
people's own clicks go together. This is a heuristic: it shows that a detector *can* be evaded, and not the best that an
attacker could do against it. It changes no numbers of clicks, so a budget far from what people click keeps showing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.detect import Detector
from tastemaker.attack.profiles import Fakes, poisoned
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Rng = int | np.random.Generator | None


def evade(
    log: FeedbackLog, fakes: Fakes, detector: Detector, *, quantile: float = 0.9, rounds: int = 5, rng: Rng = None
) -> Fakes:
    """Fake users of the same targets and numbers of clicks that `detector` flags less.

    Args:
        log: what the fakes were made for; the detector is asked about the log poisoned with them.
        quantile: of the real users' suspicion; a fake user at or below it stays as it is.
        rounds: steps in which fillers are exchanged; the detector is asked once more than that.

    The settings of the result say the share that got below (`hidden`). Some may not: a detector that looks at the
    targets themselves cannot be evaded by other fillers.
    """
    if not 0 < quantile < 1 or rounds < 1:
        raise InvalidArgument(f"quantile={quantile:g}, rounds={rounds}; expected a share between 0 and 1, and >= 1")
    draw, clicks = np.random.default_rng(rng), real_clicks(log)
    length = np.diff(clicks.indptr)
    profiles, alibis = list(fakes.profiles), []
    for profile in fakes.profiles:
        long = np.flatnonzero(length >= min(len(profile), length.max()))
        near = long[np.argsort(length[long], kind="stable")][: max(20, len(long) // 10)]
        alibi = int(draw.choice(near))
        own = clicks.indices[clicks.indptr[alibi] : clicks.indptr[alibi + 1]]
        alibis.append(draw.permutation(np.setdiff1d(own, fakes.targets)))
    order = [draw.permutation(np.setdiff1d(profile, fakes.targets)) for profile in fakes.profiles]

    def seen(now: list[NDArray[np.int32]]) -> NDArray[np.bool_]:
        """Which fake users are too suspicious."""
        suspicion = detector.score(poisoned(log, _like(fakes, now)))
        real = suspicion[: log.n_users]
        return np.asarray(suspicion[log.n_users :] > np.quantile(real[real > -np.inf], quantile), bool)

    for number in range(1, rounds + 1):
        caught = np.flatnonzero(seen(profiles))
        if not len(caught):
            break
        for fake in caught:
            profiles[fake] = _blend(fakes.profiles[fake], order[fake], alibis[fake], number / rounds)
    hidden = 1 - float(seen(profiles).mean())
    record = {**fakes.settings, "detector": repr(detector), "quantile": quantile, "hidden": hidden}
    return Fakes(tuple(profiles), fakes.n_items, fakes.targets, f"{fakes.method} evading", record)


def _blend(
    profile: NDArray[np.int32], fillers: NDArray[np.int32], alibi: NDArray[np.int32], share: float
) -> NDArray[np.int32]:
    """The profile with the first `share` of its fillers exchanged for clicks of the alibi that it lacks."""
    wanted = np.setdiff1d(alibi, profile, assume_unique=True)[: round(share * len(fillers))]
    gone = fillers[~np.isin(fillers, alibi)][: len(wanted)]
    return np.sort(np.r_[np.setdiff1d(profile, gone), wanted[: len(gone)]]).astype(np.int32)


def _like(fakes: Fakes, profiles: list[NDArray[np.int32]]) -> Fakes:
    return Fakes(tuple(profiles), fakes.n_items, fakes.targets, fakes.method)
