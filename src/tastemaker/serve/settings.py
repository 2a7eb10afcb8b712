"""How a gallery is served: what it may touch, whom it answers, and how much of it anybody may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tastemaker.errors import InvalidArgument

LOCAL = ("127.0.0.1", "localhost", "[::1]")
_EXPLICIT = re.compile(r"\b(nsfw|nude|naked|nudity|porn\w*|hentai|erotic\w*|gore|gory)\b", re.IGNORECASE)


def explicit(prompt: str) -> bool:
    """Whether a prompt speaks of explicit content: a short list of English words, no more. Bring your own filter."""
    return _EXPLICIT.search(prompt) is not None


@dataclass(frozen=True)
class Settings:
    """A gallery.

    Attributes:
        home: folder of everything it writes: store, versions, pictures, uploads, thumbnails, secret, audit log.
        galleries: folders made by `tastemaker grid`, or of PNG files that carry a recipe.
        models: that may draw, as `zoo.find` takes them.
        store: where events are kept; home/store.db when None.
        public: strangers may come: rate limits and quotas hold, nobody can pick another's profile, explicit prompts are
            refused, cookies travel over https only.
        names: host names it answers to, beside this machine's own; "*" for all, behind a proxy that checks.
        encoder: CLIP folder that judges what models draw, to choose among them; the embedded one, which knows the
            embedded models alone, when None.
        explore: share of places filled at random, which is what makes corrections possible.
        ask: which pairs Compare asks about: those that tell most, those that could be the best, or any.
        trust: whether suspicious votes and likes count less.
        refit_after: events after which the model is fitted anew in the background; 0 never, and then few votes count
            (`serve.trust`).
        reads, writes: requests a minute from one address, when public.
        orders: jobs one person may have waiting or running, when public.
        upload_bytes, upload_pixels: the most that is taken.
        refuse: whether a prompt is not to be shown, nor, when public, drawn.
        seed: makes every random choice repeatable, for tests; None is the system's randomness.
    """

    home: Path
    galleries: tuple[Path, ...] = ()
    models: tuple[str, ...] = ("zoo",)
    store: str | None = None
    public: bool = False
    names: tuple[str, ...] = ()
    encoder: Path | None = None
    explore: float = 0.1
    ask: Literal["information", "thompson", "random"] = "information"
    trust: bool = True
    refit_after: int = 50
    reads: int = 900
    writes: int = 120
    orders: int = 3
    upload_bytes: int = 12_000_000
    upload_pixels: int = 16_000_000
    refuse: Callable[[str], bool] = explicit
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.explore <= 1:
            raise InvalidArgument(f"explore = {self.explore}; expected a share above 0, at most 1 (0.1 is usual)")
        if self.public and not self.names:
            raise InvalidArgument("public without a name; say which host names it answers to, such as gallery.example")
        for what in ("reads", "writes", "orders", "upload_bytes", "upload_pixels"):
            if getattr(self, what) < 1:
                raise InvalidArgument(f"{what} = {getattr(self, what)}; expected at least 1")

    @property
    def where(self) -> str:
        """Of the store."""
        return self.store or str(self.home / "store.db")

    @property
    def pictures(self) -> Path:
        """Where workers write."""
        return self.home / "pictures"

    @property
    def versions(self) -> Path:
        """Where fitted versions are kept."""
        return self.home / "versions"

    @property
    def uploads(self) -> Path:
        """Where uploads lie, decoded and written anew."""
        return self.home / "uploads"
