"""Screenshots of the gallery for the docs, of pictures that the embedded models drew:

    python -m tests.serve.screenshots docs/img
    python -m tests.serve.screenshots FOLDER --all

`--all` takes every page at 1280 and 360 pixels, light and dark, to look at after a change. People are made up: they
like, vote and order, one of them far too often. Needs Chromium and playwright; draws fifteen pictures, a minute or two.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from playwright.sync_api import sync_playwright

from tastemaker.choose.votes import Choice
from tastemaker.serve.app import create_app
from tastemaker.serve.events import Joined, Said, Voted
from tastemaker.serve.jobs import work_on
from tastemaker.serve.settings import Settings
from tastemaker.serve.visit import Site
from tastemaker.serve.worker import Draftsman
from tests.serve.planted import plant_zoo

PROMPT, MIXED = "a fox above a balloon", "a penguin"
DOCS = {  # name: page, width
    "explore": ("explore", 1280), "for_you": ("for-you", 1280), "compare": ("compare", 1280), "audit": ("audit", 1280),
    "generate": ("job/1", 1280), "model": ("model/zoo/ink", 1280), "phone": ("for-you", 360), "mix": ("job/2", 1280),
    "grid": ("job/3", 1280), "leaderboard": ("leaderboard", 1280), "history": ("history", 1280),
    "picture": ("picture", 1280),
}  # fmt: skip
EVERY = (
    "explore", "for-you", "compare", "compare?k=4&order=true", "leaderboard", "generate", "job/1", "mix", "job/2",
    "job/3", "audit", "history", "session", "model/zoo/ink", "picture",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="every page, both widths, light and dark")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as (site, address), sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 820}, device_scale_factor=1.5)
        page = context.new_page()
        page.goto(f"{address}/session")
        page.fill("input[name=name]", "Ada")
        page.locator("form button").last.click()
        page.wait_for_url("**/for-you")
        talk(site, "Ada")
        order(site, page, address)
        for name, (path, width, scheme) in (shots(site) if asked.all else docs(site)).items():
            page.set_viewport_size({"width": width, "height": 780 if width < 500 else 820})
            page.emulate_media(color_scheme=scheme)
            page.goto(f"{address}/{path}")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=asked.folder / f"{name}.png", full_page=asked.all)
        browser.close()


def docs(site: Site) -> dict[str, tuple[str, int, str]]:
    mixed = site.gallery.get(site.jobs.job(2).result["pictures"][0]).id  # type: ignore[index]
    return {
        f"serve_{name}": (f"picture/{mixed}" if name == "picture" else path, width, "light")
        for name, (path, width) in DOCS.items()
    }


def shots(site: Site) -> dict[str, tuple[str, int, str]]:
    first = site.gallery.everything()[0].id
    return {
        f"{name.replace('/', '_').partition('?')[0]}{'_order' * ('order' in name)}_{width}_{scheme}": (
            f"picture/{first}" if name == "picture" else name, width, scheme,
        )
        for name in EVERY for width in (1280, 360) for scheme in ("light", "dark")
    }  # fmt: skip


@contextmanager
def served(home: Path) -> Iterator[tuple[Site, str]]:
    app = create_app(Settings(home / "home", (plant_zoo(home / "grid"),), seed=4, refit_after=0))
    site: Site = app.state.site
    site.chooser.stocked(wait=300)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield site, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def talk(site: Site, me: str) -> None:
    """Twelve people with tastes, and one who was paid: 400 votes for one model."""
    rng, store = np.random.default_rng(0), site.store
    by_prompt = list(site.gallery.by_prompt().values())
    models = sorted({one.model for one in site.gallery.everything()})
    taste = rng.normal(0, 0.6, (13, len(models))) + np.linspace(0.8, -0.8, len(models))
    people = [me, *(f"Person {n}" for n in range(1, 12)), "Paid"]
    for row, person in enumerate(people):
        store.add(Joined(person))
        paid = person == "Paid"
        for _ in range(400 if paid else 30):
            drawn = by_prompt[rng.integers(len(by_prompt))]
            one, other = (drawn[at] for at in rng.choice(len(drawn), 2, replace=False))
            own = 10.0 * (np.arange(len(models)) == len(models) - 1) if paid else taste[row]
            lead = own[models.index(other.model)] - own[models.index(one.model)]
            best = one if rng.random() < 1 / (1 + np.exp(lead)) else other
            store.submit(Voted(person, (Choice((best.id,), (one.id, other.id, None), ties=True),)))
        for at in rng.choice(len(site.gallery), 0 if paid else 18, replace=False):
            picture = site.gallery.everything()[at]
            liked = taste[row, models.index(picture.model)] + rng.normal(0, 0.5) > 0
            store.submit(Said(person, picture.id, 1 if liked else -1, unshown="made up"))
    store.add(Joined("last"))
    site.learner.refit()


def order(site: Site, page: Any, address: str) -> None:
    page.goto(f"{address}/generate")
    page.fill("input[name=prompt]", PROMPT)
    page.click("form.stack button")
    page.wait_for_url("**/job/1")
    source = next(one.id for one in site.gallery.everything() if (one.prompt, one.model) == (MIXED, "zoo/base"))
    page.goto(f"{address}/mix?picture={source}")
    for style in ("zoo/ink", "zoo/clay"):
        page.locator(f"input[name=styles][value='{style}']").check(force=True)
    page.click("form.mixer .button")
    page.wait_for_url("**/job/2")
    page.goto(f"{address}/mix")
    page.click("summary:has-text('Every content')")
    page.fill("form.narrow input[name=prompt]", MIXED)
    for model in ("zoo/base", "zoo/ink", "zoo/neon"):
        page.locator(f"input[name=models][value='{model}']").check(force=True)
    page.click("text=Draw the grid")
    page.wait_for_url("**/job/3")
    work_on(site.jobs, Draftsman(site.store, site.settings.pictures), worker="shots", device="cpu", once=True)


if __name__ == "__main__":
    main()
