"""Several server processes of one gallery: one socket, one store, one address.

One process has one interpreter, which answers one request at a time. The store is what servers share: it takes any
number of writers, and whoever answers asks it where a person stands, so that a like counts in the next list whichever
process makes it. What was fitted is a folder, looked at before every answer; one process at a time fits. Nothing else
is shared: each process holds the catalogue and what it made of it, and counts the rates of addresses for itself.

A process that dies is replaced. One that dies before it could serve would die again: then all end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from tastemaker.errors import InvalidArgument, TastemakerError
from tastemaker.serve.gallery import import_folder, known_models
from tastemaker.serve.settings import Settings
from tastemaker.serve.signing import Signer
from tastemaker.serve.store import Store

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.synchronize import Event

_GRACE = 30.0  # seconds to finish what was asked


def prepare(settings: Settings) -> None:
    """What servers that start together would all do: the store's schema, the folders' pictures, the secret.

    Raises what `create_app` raises.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with Store(settings.where) as store:
        for folder in settings.galleries:
            import_folder(store, Path(folder))
    tuple(known_models(settings))
    Signer.of(settings.home / "secret")


def listen(host: str, port: int) -> socket.socket:
    """The socket that all share. Raises InvalidArgument where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidArgument(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error


def serve(settings: Settings, ear: socket.socket, n: int) -> None:
    """Serve with n processes until SIGINT or SIGTERM. Raises TastemakerError where one cannot start."""
    context = multiprocessing.get_context("spawn")

    def start() -> tuple[SpawnProcess, Event]:
        ready = context.Event()
        process = context.Process(target=_serve, args=(settings, ear, ready, os.getpid()))
        process.start()
        return process, ready

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.default_int_handler)  # raises KeyboardInterrupt
    running: list[tuple[SpawnProcess, Event]] = []
    try:
        running += [start() for _ in range(n)]
        while True:
            wait([process.sentinel for process, _ in running])
            for at, (process, ready) in enumerate(running):
                if process.is_alive():
                    continue
                if not ready.is_set():
                    raise TastemakerError("a server process could not start; its message stands above")
                running[at] = start()
    except KeyboardInterrupt:
        return
    finally:
        for process, _ in running:
            process.terminate()
        until = time.monotonic() + _GRACE
        for process, _ in running:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()


def _serve(settings: Settings, ear: socket.socket, ready: Event, parent: int) -> None:
    import uvicorn

    from tastemaker.serve.app import create_app

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        site = create_app(settings)
    except TastemakerError as error:
        sys.exit(f"error: {error}")
    ready.set()
    told = uvicorn.Config(site, log_level="warning", server_header=False, proxy_headers=settings.public)
    uvicorn.Server(told).run(sockets=[ear])


def _end_with(parent: int) -> None:
    """End as if told to, once the process that started this one is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
