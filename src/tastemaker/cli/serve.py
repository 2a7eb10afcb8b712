"""`tastemaker serve`: the gallery on this machine, and the processes that draw for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tastemaker.cli.app import app
from tastemaker.cli.pictures import Models
from tastemaker.errors import InvalidArgument, MissingExtra
from tastemaker.terminal import err


@app.command
def serve(
    *galleries: Path,
    home: Path = Path("gallery"),
    models: Models = ["zoo"],  # noqa: B006
    store: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    public: bool = False,
    name: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = [],  # noqa: B006
    devices: Annotated[list[str], Parameter(consume_multiple=True)] = ["auto"],  # noqa: B006
    encoder: Path | None = None,
    explore: float = 0.1,
    ask: Literal["information", "thompson", "random"] = "information",
    trust: bool = True,
    workers: int = 1,
) -> None:
    """Serve a gallery: look, like, compare, generate, mix, and see who gets what.

        serve grids/animals
        serve grids/* --home my-gallery --models zoo models/*
        serve --public --name gallery.example --host 0.0.0.0 --store postgresql://...

    It answers on this machine alone unless --host says otherwise. With
    --public, sessions, rate limits and quotas hold; put a proxy that speaks
    https before it.

    Args:
        galleries: Folders made by `tastemaker grid`, or of pictures by `tastemaker mix`.
        home: Folder for everything the gallery writes.
        models: Models that may draw: zoo/NAME, paths or patterns; none to only show.
        store: A database for the events: postgresql://...; a file in the home folder when not given.
        host: Address to listen on.
        port: Port to listen on.
        public: Strangers may come.
        name: Host names it answers to beside localhost; needed with --public.
        devices: One process that draws for each: auto, cpu, cuda:0, cuda:1, ...; none to draw elsewhere.
        encoder: CLIP folder that judges what models draw, to choose among them for a prompt; needed for models of
            your own. The embedded one, which knows the embedded models alone, when not given.
        explore: Share of places, models and questions drawn by chance.
        ask: What Compare asks: the pair that tells most, one of likely winners, or any.
        trust: Let suspicious votes and likes count less.
        workers: Server processes that share the address and the store; as many as cores that are to serve.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtra("uvicorn", "serve") from error
    from tastemaker.serve import several, worker
    from tastemaker.serve.app import create_app
    from tastemaker.serve.settings import LOCAL, Settings

    if host not in LOCAL and not name:
        raise InvalidArgument(
            f"--host {host} without --name; say under which names it is reached, such as --name gallery.example"
        )
    drawing = tuple(model for model in models if model != "none")
    settings = Settings(home, galleries, drawing, store, public, tuple(name), encoder, explore, ask, trust)
    if workers < 1:
        raise InvalidArgument(f"--workers {workers}; expected at least 1")
    places = devices if drawing else []  # where no model may draw no process need wait for work
    worker.check_devices(places)
    err.print("reading the gallery ...")
    address = f"http://{'localhost' if host in LOCAL else host}:{port}/"
    if workers == 1:
        site = create_app(settings)
        err.print(f"{address}   (Ctrl-C ends it)", highlight=False)
        with worker.workers(settings.where, settings.pictures, places):
            uvicorn.run(site, host=host, port=port, log_level="warning", server_header=False, proxy_headers=public)
        return
    several.prepare(settings)
    with several.listen(host, port) as ear, worker.workers(settings.where, settings.pictures, places):
        err.print(f"{address}   ({workers} processes; Ctrl-C ends them)", highlight=False)
        several.serve(settings, ear, workers)
