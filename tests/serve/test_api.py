"""The whole OpenAPI under generated requests (schemathesis): no request whatever makes the server fail, and every
answer is one that the schema tells of."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")

import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tastemaker.generate import zoo
from tastemaker.serve.app import create_app
from tastemaker.serve.settings import Settings
from tests.serve.planted import plant

pytestmark = pytest.mark.skipif(not zoo.zoo(), reason="no embedded models in this version")
EXAMPLES = 6  # requests for each of some thirty operations
CHECKS = [checks.not_a_server_error, status_code_conformance, content_type_conformance]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("api")
    model = shutil.copytree(zoo.ROOT / "ink", folder / "ink")  # one that draws; nobody does in this test
    home = Settings(folder / "home", (plant(folder / "grid", seeds=1),), (str(model),), seed=1, refit_after=0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(home), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def visit(address: str) -> dict[str, str]:
    """Headers of a session that may change something, and wants JSON."""
    import requests

    told = requests.get(f"{address}/session?format=json", timeout=30)
    return {
        "Cookie": "; ".join(f"{name}={value}" for name, value in told.cookies.items()),
        "X-CSRF-Token": told.json()["token"], "Accept": "application/json",
    }  # fmt: skip


@pytest.fixture(scope="module")
def known(address: str, visit: dict[str, str]) -> dict[str, list[Any]]:
    """What there is, by the name of the field that asks for it: chance alone would only meet what is not there."""
    import requests

    def get(page: str) -> Any:
        return requests.get(f"{address}/{page}", headers=visit, timeout=30).json()

    pictures = [card["id"] for card in get("explore")["cards"]]
    models = [one["name"] for one in get("generate")["models"]]
    questions = [get("compare")["question"], get("compare?k=4")["question"]]
    return {
        "item": pictures, "id": pictures, "picture": pictures, "models": [models, models * 2], "styles": [models],
        "content": models, "model": ["flat", "ink", *models], "name": ["flat", "ink"], "question": questions,
        "answer": ["1", "2", "3,1", "2,1", "tie", "none"], "tag": ["food", "sky"], "prompt": ["a red apple"],
        "number": [1, 2], "seq": [1, 60, 61], "impression": [1, 20],
    }  # fmt: skip


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_answers_as_it_says(
    address: str, visit: dict[str, str], known: dict[str, list[Any]], mode: GenerationMode
) -> None:
    api = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for operation in api.get_all_operations():

        @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy(generation_mode=mode), data=st.data())
        def answers(case: Any, data: st.DataObject) -> None:
            for part in (case.path_parameters, case.query, case.body):
                for name in sorted(known.keys() & part.keys()) if isinstance(part, dict) else ():
                    if data.draw(st.booleans()):
                        part[name] = data.draw(st.sampled_from(known[name]))
            answer = case.call(headers=visit, timeout=30)
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 400:
                assert answer.json()["message"]

        with contextlib.suppress(Unsatisfiable):  # nothing to get wrong
            answers()
