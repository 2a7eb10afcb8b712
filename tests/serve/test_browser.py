"""The gallery in a real browser: every page, the keyboard, a phone's width, and what assistive technology would miss.

Needs Chromium (`apt-get install chromium`) and the Python package playwright; skipped with a reason without them.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")

import uvicorn
from playwright.sync_api import sync_playwright

from tastemaker.serve.app import create_app
from tastemaker.serve.settings import Settings
from tastemaker.serve.visit import Site
from tests.serve.planted import plant, plant_zoo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PAGES = (
    "explore",
    "for-you",
    "compare",
    "compare?k=4",
    "compare?k=4&order=true",
    "leaderboard",
    "generate",
    "mix",
    "audit",
    "history",
    "session",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gallery")
    plant(folder / "grid", seeds=3)
    with served(Settings(folder / "home", (folder / "grid",), models=(), refit_after=0)) as (found, _):
        yield found


@contextmanager
def served(settings: Settings) -> Iterator[tuple[str, Site]]:
    app = create_app(settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}", app.state.site
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[str]:
    """A gallery in which two of the embedded models draw, in a thread."""
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'tastemaker[generate]'")
    from tastemaker.serve.jobs import work_on
    from tastemaker.serve.worker import Draftsman

    ends = threading.Event()
    folder = plant_zoo(tmp_path / "grid", prompts=2)
    settings = Settings(tmp_path / "home", (folder,), ("zoo/ink", "zoo/neon"), seed=1, refit_after=0)
    with served(settings) as (found, site):
        draws = Draftsman(site.store, settings.pictures)
        draw = partial(work_on, site.jobs, draws, worker="browser", device="cpu", stop=ends.is_set)
        worker = threading.Thread(target=draw)
        worker.start()
        yield found
        ends.set()
        worker.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test at its end where the console showed an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    context.close()
    assert [one for one in said if "403" not in one] == []  # one test provokes these


def ready(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_fits_its_window(page: Any, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for name in PAGES:
        ready(page, f"{address}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").count() == 1, name


def test_keys_like_dislike_superlike_skip_and_undo(page: Any, address: str) -> None:
    ready(page, f"{address}/for-you")
    seen = []
    for key, likes, dislikes in (
        ("ArrowRight", 1, 0),
        ("ArrowUp", 2, 0),
        ("ArrowLeft", 2, 1),
        (" ", 2, 1),
        ("z", 2, 0),
    ):
        before = page.locator("#deck input[name=impression]").first.input_value()
        seen.append(page.locator("#deck input[name=item]").first.input_value())
        page.keyboard.press(key)
        page.wait_for_function(
            "before => document.querySelector('#deck input[name=impression]')?.value !== before", arg=before
        )
        assert f"{likes} liked, {dislikes} disliked" in page.locator(".keys").inner_text()
    assert page.locator("#deck input[name=item]").first.input_value() == seen[2]  # the disliked one is back


def test_explore_scrolls_on_likes_and_searches(page: Any, address: str) -> None:
    ready(page, f"{address}/explore")
    assert page.locator(".card").count() >= 24
    for _ in range(8):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(300)
    page.wait_for_function("() => document.querySelectorAll('.card').length === 72")
    like = page.locator(".react.like").nth(2)
    like.click()
    page.wait_for_selector(".react.like[aria-pressed=true]")
    page.locator(".react.like[aria-pressed=true]").click()
    page.wait_for_function("() => !document.querySelector('.react[aria-pressed=true]')")
    page.fill("#q", "moon neon")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 3")
    assert "q=moon" in page.url
    page.fill("#q", "")
    page.select_option("select[name=tag]", "sky")
    page.wait_for_function("() => document.querySelector('.count').textContent.startsWith('24 of 72')")


def test_a_journey_from_like_to_leaderboard(page: Any, address: str) -> None:
    ready(page, f"{address}/explore")
    page.locator(".card .frame").first.click()
    page.wait_for_selector("text=Recipe")
    page.locator(".react.superlike").click()
    page.wait_for_selector(".react.superlike[aria-pressed=true]")
    ready(page, f"{address}/compare")
    for key in ("ArrowLeft", "ArrowRight", "t", "b"):
        before = page.locator("#battle input[name=question]").input_value()
        page.keyboard.press(key)
        page.wait_for_function(
            "before => document.querySelector('#battle input[name=question]').value !== before", arg=before
        )
        assert page.locator(".last").is_visible()
    ready(page, f"{address}/leaderboard?mine=true")
    assert page.locator("table.board tbody tr").count() == 4
    ready(page, f"{address}/history")
    assert page.locator(".past li").count() == 5
    for undone in (1, 2):
        page.keyboard.press("z")
        page.wait_for_function("n => document.querySelectorAll('.past li.undone').length === n", arg=undone)


def test_a_journey_from_like_to_mix_to_vote_to_leaderboard(page: Any, workshop: str) -> None:
    ready(page, f"{workshop}/explore?model=zoo/ink")
    page.locator(".react.like").first.click()
    page.wait_for_selector(".react.like[aria-pressed=true]")
    page.locator(".card .frame").first.click()
    page.click("text=Mix it")
    page.click("form.mixer .chip:has-text('neon')")
    page.click("form.mixer summary")
    page.fill("form.mixer input[name=steps]", "4")
    page.locator("form.mixer input[name=alpha]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("form.mixer .slider:has([name=alpha]) output").inner_text() == "3.1"
    page.click("form.mixer .button")
    page.wait_for_url("**/job/1")
    page.wait_for_selector("text=1 picture, finished", timeout=90_000)
    over = page.locator(".compare .over")
    page.locator(".compare input").focus()
    before = over.evaluate("one => getComputedStyle(one).clipPath")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    after = over.evaluate("one => getComputedStyle(one).clipPath")
    assert ("50%" in before, "99%" in after) == (True, True), (before, after)
    page.locator(".about a", has_text="alpha 3.1, 4 steps").click()  # the recipe on the card brings it all back
    page.wait_for_url("**/mix?like=*")
    assert page.locator("form.mixer input[name=alpha]").input_value() == "3.1"
    assert page.locator("form.mixer .chip:has(:checked)").count() == 1
    page.click("summary:has-text('Every content')")
    page.fill("form.narrow input[name=prompt]", "a cat")
    page.fill("form.narrow input[name=steps]", "2")
    for at in range(2):
        page.locator("form.narrow .chip").nth(at).click()
    page.click("text=Draw the grid")
    page.wait_for_url("**/job/2")
    page.wait_for_selector(".matrix img >> nth=3", timeout=90_000)
    ready(page, f"{workshop}/compare")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".last")
    ready(page, f"{workshop}/leaderboard")
    assert "1 vote in all" in page.locator("#main").inner_text()
    assert page.locator("table.board tbody tr").count() >= 6


def test_four_are_put_in_order_by_keys_and_by_clicks(page: Any, address: str) -> None:
    ready(page, f"{address}/compare?k=4&order=true")
    page.keyboard.press("3")
    page.wait_for_selector("text=Place 2 of 4")
    assert page.locator(".choice.placed").count() == 1
    page.locator(".choice:not(.placed)").first.click()
    page.wait_for_selector("text=Place 3 of 4")
    page.keyboard.press("4")
    page.wait_for_selector(".last")
    assert page.locator(".last").inner_text().startswith("Your order:")
    page.keyboard.press("2")
    page.wait_for_selector("text=Place 2 of 4")
    page.keyboard.press("Enter")  # that is enough
    page.wait_for_function("() => !document.querySelector('.choice.placed')")


def test_errors_are_told_in_the_page(page: Any, address: str) -> None:
    ready(page, f"{address}/for-you")
    page.evaluate("document.body.setAttribute('hx-headers', '{\"X-CSRF-Token\": \"no\"}')")
    page.evaluate("document.querySelectorAll('[name=csrf]').forEach(field => field.remove())")
    with page.expect_response(lambda answer: answer.status == 403):
        page.locator(".round.like").click()
    page.wait_for_selector("#notice .problem")
    assert "load the page again" in page.locator("#notice").inner_text()


def test_nothing_for_assistive_technology_to_stumble_over(page: Any, address: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    first = f"picture/{page.request.get(f'{address}/explore?format=json').json()['cards'][0]['id']}"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name in (*PAGES, first, "model/neon"):
            ready(page, f"{address}/{name}")
            found = axe.Axe().run(page)
            assert found.violations_count == 0, f"{name} {scheme}: {found.generate_report()}"
