"""Uploads made to break the reader: cut, mutated, two formats in one, bombs. Taken whole, or refused with words."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tastemaker.generate.picture import read_picture
from tastemaker.serve.app import create_app
from tastemaker.serve.settings import Settings

JSON = {"Accept": "application/json"}
TAKEN, REFUSED = 404, (413, 422)  # taken: the style asked for is not there, which is looked at after the picture


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(Settings(tmp_path_factory.mktemp("uploads"), models=(), upload_bytes=300_000))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as made:
        made.headers["X-CSRF-Token"] = made.get("/session", headers=JSON).json()["token"]
        yield made


def send(client: TestClient, content: bytes, field: str = "upload") -> tuple[int, str]:
    files = {field: ("a.png", content)} | ({} if field == "upload" else {"upload": ("b.png", encoded("PNG"))})
    answer = client.post("/mix", data={"prompt": "an apple", "styles": "zoo/none"}, files=files, headers=JSON)
    return answer.status_code, answer.json()["message"]


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 17), **options: object) -> bytes:
    image = Image.radial_gradient("L").resize(size).convert(mode)
    content = io.BytesIO()
    image.save(content, kind, **options)  # type: ignore[arg-type]
    return content.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, width: int = 8, height: int = 8, body: bytes | None = None) -> bytes:
    """A PNG with further chunks before its picture."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = zlib.compress(bytes((1 + 3 * width) * height)) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


WHOLE = [
    encoded("PNG"), encoded("PNG", "RGBA"), encoded("PNG", "P"), encoded("PNG", "L"), encoded("JPEG"),
    encoded("JPEG", progressive=True), encoded("WEBP"), encoded("WEBP", "RGBA", lossless=True),
]  # fmt: skip
BOMB = zlib.compress(bytes(200_000_000), 9)  # 200 MB in 200 kB
TAILS = [
    b"<script>alert(1)</script>", b"PK\x05\x06" + bytes(18), b"%PDF-1.4", b"GIF89a", bytes(2000), WHOLE[4], WHOLE[0],
]  # fmt: skip
QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), whole=st.sampled_from(WHOLE), field=st.sampled_from(["upload", "mask_upload"]))
def test_whatever_is_done_to_a_file(client: TestClient, data: st.DataObject, whole: bytes, field: str) -> None:
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["cut", "flip", "put", "drop", "again", "tail", "size"])):
            case "cut":
                content = content[:at]
            case "flip" if at < len(content):
                content[at] ^= data.draw(st.integers(1, 255))
            case "put":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=30))
            case "drop":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "again":
                content[at:at] = content[at : at + 60]
            case "tail":
                content += data.draw(st.sampled_from(TAILS))
            case "size":  # lengths and sizes are numbers of four bytes in all three
                content[at : at + 4] = struct.pack(
                    ">I", data.draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**32 - 1]))
                )
    status, message = send(client, bytes(content), field)
    assert status == TAKEN or status in REFUSED, message
    assert message


@settings(max_examples=30, **QUIET)
@given(content=st.binary(max_size=400))
@example(content=b"")
@example(content=b"\x89PNG\r\n\x1a\n")
@example(content=b"\xff\xd8\xff")
@example(content=b"RIFF\xff\xff\xff\xffWEBPVP8 ")
def test_noise(client: TestClient, content: bytes) -> None:
    status, message = send(client, content)
    assert status in (TAKEN, *REFUSED), message
    assert message


@pytest.mark.parametrize(
    "content",
    [
        png(width=30_000, height=30_000), png(width=2**31 - 1, height=1), png(width=0, height=5), png(body=BOMB),
        png(chunk(b"zTXt", b"Comment\0\0" + BOMB)), png(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
        png(chunk(b"iCCP", b"icc\0\0" + BOMB)), png(*[chunk(b"tEXt", b"a\0" + bytes(90))] * 2000),
        png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 17), c) for c in ("red", "blue")] * 50),
        encoded("JPEG")[:2] + b"\xff\xfe\xff\xff" + bytes(65533) + encoded("JPEG")[2:],
        encoded("JPEG").replace(struct.pack(">HH", 17, 24), struct.pack(">HH", 65000, 65000)),
    ],
)  # fmt: skip
def test_bombs_cost_neither_memory_nor_time(client: TestClient, content: bytes) -> None:
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, message = send(client, content)
    assert status in (TAKEN, *REFUSED), message
    assert message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 150_000  # kilobytes, at the most ever held
    assert time.process_time() - began < 10  # a bound on runaway work, not a measure


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("whole", [WHOLE[0], WHOLE[4], WHOLE[6]])
def test_what_hides_behind_a_picture_does_not_survive(client: TestClient, whole: bytes, tail: bytes) -> None:
    uploads: Path = client.app.state.site.settings.uploads  # type: ignore[attr-defined]
    for old in uploads.glob("*.png"):
        old.unlink()
    status, message = send(client, whole + tail)
    assert status in (TAKEN, *REFUSED), message
    kept = list(uploads.glob("*.png"))
    assert len(kept) == (status == TAKEN)
    for file in kept:
        assert file.read_bytes().count(tail) <= (tail == WHOLE[0])  # which is how that picture is written
        assert read_picture(file).size == (24, 17)
