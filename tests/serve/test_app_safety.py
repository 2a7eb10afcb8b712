"""What stands before every page: hosts, tokens, sessions, rates, sizes, uploads, the audit log."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tastemaker.serve.app import create_app
from tastemaker.serve.guard import Buckets
from tastemaker.serve.settings import Settings
from tests.serve.planted import plant

JSON = {"Accept": "application/json"}
Open = Callable[..., TestClient]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "grid", seeds=1)


@pytest.fixture
def gallery(tmp_path: Path, folder: Path) -> Iterator[Open]:
    made: list[TestClient] = []

    def open_(*, base: str = "http://localhost", **options: object) -> TestClient:
        app = create_app(Settings(tmp_path / "home", (folder,), models=(), **options))  # type: ignore[arg-type]
        made.append(TestClient(app, base_url=base).__enter__())
        return made[-1]

    yield open_
    for client in made:
        client.__exit__(None, None, None)


def public(gallery: Open, **options: object) -> TestClient:
    return gallery(base="https://gallery.example", public=True, names=("gallery.example",), **options)


def token(client: TestClient) -> str:
    return str(client.get("/session", headers=JSON).json()["token"])


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]", "gallery.example"]
)
def test_other_names_are_not_answered(gallery: Open, host: str) -> None:
    assert gallery().get("/explore", headers={"Host": host, **JSON}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:80", "LOCALHOST:1"])
def test_this_machine_is(gallery: Open, host: str) -> None:
    assert gallery().get("/session", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("headers", [{}, JSON])
def test_visitors_are_not_told_where_the_store_is(gallery: Open, headers: dict[str, str]) -> None:
    client = gallery()
    client.get("/session")
    client.app.state.site.store.close()  # type: ignore[attr-defined]
    told = client.get("/for-you", headers=headers)
    assert told.status_code == 503
    assert "send it again" in told.text
    assert "store.db" not in told.text


class TestForgery:
    def test_a_post_needs_session_and_token(self, gallery: Open) -> None:
        client = gallery()
        assert client.post("/undo", headers=JSON).status_code == 403
        right = token(client)
        for wrong in ({}, {"X-CSRF-Token": "0" * 40}, {"X-CSRF-Token": "é".encode("latin1")}):
            assert client.post("/undo", headers={**JSON, **wrong}).status_code == 403
        assert client.post("/undo", headers={**JSON, "X-CSRF-Token": right}).status_code == 404  # nothing to undo
        assert client.post("/undo", data={"csrf": right}, headers=JSON).status_code == 404

    def test_another_sessions_token_is_worth_nothing(self, gallery: Open) -> None:
        client = gallery()
        old = token(client)
        client.cookies.clear()
        token(client)
        assert client.post("/undo", headers={**JSON, "X-CSRF-Token": old}).status_code == 403

    def test_other_sites_are_refused_even_with_the_token(self, gallery: Open) -> None:
        client = gallery()
        headers = {**JSON, "X-CSRF-Token": token(client), "Origin": "http://evil.example"}
        assert client.post("/undo", headers=headers).status_code == 403

    def test_a_changed_cookie_is_a_new_session(self, gallery: Open) -> None:
        client = gallery()
        me = client.get("/session", headers=JSON).json()["person"]
        body, _, tag = client.cookies["tastemaker"].strip('"').partition(".")
        for cookie in (f"{body}.{tag[:-1]}x", "x", "", f"{body[2:]}.{tag}"):
            client.cookies.clear()
            answer = client.get("/session", headers={**JSON, "Cookie": f"tastemaker={cookie}"})
            assert answer.status_code == 200
            assert answer.json()["person"] != me

    def test_cookies_are_out_of_reach_of_scripts_and_other_sites(self, gallery: Open) -> None:
        cookie = public(gallery).get("/session").headers["set-cookie"].lower()
        assert all(word in cookie for word in ("httponly", "samesite=lax", "secure"))


class TestPublic:
    def test_nobody_takes_anothers_name(self, gallery: Open) -> None:
        client = public(gallery)
        first = client.post("/session", data={"name": "Ada"}, headers={**JSON, "X-CSRF-Token": token(client)})
        assert first.json()["person"] == "Ada"
        client.cookies.clear()
        again = client.post("/session", data={"name": "Ada"}, headers={**JSON, "X-CSRF-Token": token(client)})
        assert again.status_code == 403
        assert "Ada" not in client.get("/session").text

    def test_rates_hold_and_recover(self, gallery: Open) -> None:
        client = public(gallery, reads=5)
        codes = [client.get("/session").status_code for _ in range(8)]
        assert codes[:5] == [200] * 5
        assert codes[-1] == 429

    def test_a_bucket_fills_in_a_minute(self) -> None:
        now = 0.0
        bucket = Buckets(60, lambda: now)
        assert [bucket.take("a") for _ in range(61)] == [True] * 60 + [False]
        assert bucket.take("b")
        now = 1.0
        assert [bucket.take("a") for _ in range(2)] == [True, False]

    def test_explicit_prompts_are_refused(self, gallery: Open) -> None:
        client = public(gallery)
        headers = {**JSON, "X-CSRF-Token": token(client)}
        answer = client.post("/generate", data={"prompt": "a naked apple"}, headers=headers)
        assert (answer.status_code, "draws no such" in answer.text) == (422, True)


def png(width: int, height: int) -> bytes:
    """A picture that claims to be large and holds next to nothing: a decompression bomb."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def whole(kind: str, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(Settings(tmp_path_factory.mktemp("fuzzed"), models=()))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


class TestUploads:
    def send(self, client: TestClient, content: bytes, name: str = "a.png") -> tuple[int, str]:
        answer = client.post(
            "/mix", data={"prompt": "an apple", "styles": "zoo/none"}, files={"upload": (name, content)},
            headers={**JSON, "X-CSRF-Token": token(client)},
        )  # fmt: skip
        return answer.status_code, answer.json()["message"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"GIF89a", "not a PNG"), (b"<svg onload=alert(1)>", "not a PNG"), (b"\0" * 100, "not a PNG"),
            (png(60_000, 60_000), "pixels"), (png(4_001, 4_000), "pixels"), (whole("PNG")[:-20], "damaged"),
            (whole("JPEG", "CMYK"), "CMYK"), (b"PK\x03\x04", "not a PNG"),
        ],
    )  # fmt: skip
    def test_what_is_no_picture_is_refused(self, gallery: Open, content: bytes, said: str, tmp_path: Path) -> None:
        status, message = self.send(gallery(), content)
        assert (status, said in message) == (422, True), message
        assert str(tmp_path) not in message
        assert not list((tmp_path / "home" / "uploads").iterdir())

    @pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "a\0b.png", "x" * 400 + ".png", ".htaccess"])
    def test_names_of_uploads_name_nothing_here(self, gallery: Open, name: str, tmp_path: Path) -> None:
        status, message = self.send(gallery(), whole("JPEG"), name)
        assert (status, "model that draws" in message) == (404, True), message  # the picture was taken
        (file,) = (tmp_path / "home" / "uploads").iterdir()
        assert len(file.stem) == 32

    def test_too_many_bytes_are_not_read(self, gallery: Open) -> None:
        client = gallery(upload_bytes=1000)
        assert self.send(client, b"x" * 100_000)[0] == 413

    def test_nor_without_a_stated_length(self, gallery: Open) -> None:
        client = gallery(upload_bytes=1000)
        headers = {**JSON, "X-CSRF-Token": token(client), "Content-Type": "application/x-www-form-urlencoded"}
        answer = client.post("/undo", content=(b"a=" + b"x" * 9_000 for _ in range(20)), headers=headers)
        assert 400 <= answer.status_code < 500

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cut=st.integers(0, 200), noise=st.binary(max_size=12), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
    def test_damage_never_breaks_the_server(self, fuzzed: TestClient, cut: int, noise: bytes, kind: str) -> None:
        content = whole(kind)
        status, _ = self.send(fuzzed, content[:cut] + noise + content[cut + len(noise) :])
        assert status in (404, 422)


def test_what_changes_something_is_written_down(gallery: Open, tmp_path: Path) -> None:
    client = gallery()
    me = client.get("/session", headers=JSON).json()
    client.post("/undo", headers={"X-CSRF-Token": me["token"]})
    client.post("/undo")
    lines = [json.loads(line) for line in (tmp_path / "home" / "audit.jsonl").read_text().splitlines()]
    told = [(line["path"], line["person"], line["status"]) for line in lines]
    assert told == [("/undo", me["person"], 404), ("/undo", None, 403)]


def test_the_secret_is_its_owners(gallery: Open, tmp_path: Path) -> None:
    gallery()
    assert (tmp_path / "home" / "secret").stat().st_mode & 0o077 == 0
