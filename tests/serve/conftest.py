"""Stores for tests: a file each, and PostgreSQL where it is installed."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tastemaker.serve.store import Store


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the path."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


class Postgres:
    """A server of its own in a temporary folder; it refuses to run as root, so root runs it as 'postgres'."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.run("initdb", "-D", str(folder / "data"), "-U", "tastemaker", "--auth=trust", "-E", "UTF8", "-N")
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=self.folder)

    def start(self) -> None:
        # The tests kill the server, not the machine: what it wrote is in the file system's cache at least.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        """'immediate' is as good as a power cut: connections die, and the log is replayed at the next start."""
        self.run("pg_ctl", "-D", "data", "-w", "-m", how, "stop")

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        to = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "tastemaker"]
        self.run("createdb", *to, "--maintenance-db=postgres", name)
        return f"postgresql://tastemaker@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'tastemaker[postgres]'")
    with tempfile.TemporaryDirectory(prefix="tastemaker-postgres-") as name:
        folder = Path(name)
        with contextlib.suppress(PermissionError, LookupError):  # not root: the server is ours
            shutil.chown(folder, "postgres")
        server = Postgres(programs, folder)
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.database(f"s{abs(hash(str(tmp_path))):x}")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store(where) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Store]:
    """A store in a file."""
    with Store(tmp_path / "file.db") as opened:
        yield opened
