"""`tastemaker choose` and `vote`: which model for a prompt and a person, and what a person's votes say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.pictures import MACHINE, Machine
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.terminal import counting, err, print_facts, print_json, print_table, working

if TYPE_CHECKING:
    from tastemaker.choose.personal import Personal
    from tastemaker.choose.rank import Taste
    from tastemaker.choose.rating import Ratings
    from tastemaker.choose.retrieve import Shelf
    from tastemaker.choose.votes import Vote
    from tastemaker.data.promptbook import Promptbook

Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


@app.command
def choose(
    prompt: str,
    *,
    user: str | None = None,
    votes: Path | None = None,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 8,
    book: Path | None = None,
    encoder: Path | None = None,
    base: Names = [],  # noqa: B006
    licence: Names = [],  # noqa: B006
    explicit: bool = False,
    policy: Literal["thompson", "ucb", "greedy"] = "thompson",
    explore: float = 0.05,
    generate: bool = False,
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("chosen.png"),
    machine: Machine = MACHINE,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Which models for this prompt and this person, each with a reason.

    Learns from pictures that the models drew before: those on the cards of
    the embedded models, or a folder drawn by `tastemaker grid`. Votes of
    `tastemaker vote` on models, and on those pictures, make it personal:
    the former choose models, the latter order what is drawn. The probability of every card is
    printed: log it where people react to what they are shown.

        choose "a fox above a balloon" --user ada --votes votes.jsonl -k 4
        choose "a watch in the rain" --book book/ --encoder clip/ --generate

    Args:
        prompt: What to draw.
        user: Whose taste; nobody in particular when not given.
        votes: File of votes.
        k: Models to list.
        book: Folder of pictures, prompts x models; the embedded models' own examples when not given.
        encoder: CLIP folder; the embedded encoder when not given.
        base: Keep only models of these bases.
        licence: Keep only models under these licences.
        explicit: Show explicit models too.
        policy: How uncertainty is used.
        explore: Share of the cards drawn at random among all models.
        generate: Draw the prompt with each model and put the pictures in order on a sheet.
        to: The sheet.
    """
    from tastemaker.choose.retrieve import retrieve

    if votes is not None and not votes.exists():
        raise DataError("no such file of votes; begin it with `tastemaker vote`", file=votes)
    with working("looking at pictures"):
        pictures, shelf = _shelf(book, encoder)
    person = _personal(votes, user, pictures)
    picks = retrieve(
        prompt, person, shelf=shelf, k=k, pool=max(100, k), base=base, licence=licence, explicit=explicit,
        policy=policy, explore=explore, rng=seed,
    )  # fmt: skip
    sheet, why = None, None
    if generate:
        taste = _taste(votes, user, pictures)
        sheet, why = _drawn(prompt, picks.table["id"].to_list(), pictures, taste, shelf, machine, seed, to)
    if json:
        drawn = {} if sheet is None else {"sheet": str(to), "best first": sheet, "ordered by": why}
        print_json({"models": picks.table.to_dicts(), "about": picks.about, **drawn})
        return
    print_table(prompt, picks.table.select("id", c.SCORE, c.PROBABILITY, "reason"))
    for said in picks.about:
        err.print(said, highlight=False)
    if sheet is not None:
        print_facts({"sheet": str(to), "best first": sheet, "ordered by": why})


@app.command
def vote(
    votes: Path,
    *,
    user: str | None = None,
    better: str | None = None,
    worse: str | None = None,
    equal: Names = [],  # noqa: B006
    both_bad: Names = [],  # noqa: B006
    order: Names = [],  # noqa: B006
    like: Names = [],  # noqa: B006
    dislike: Names = [],  # noqa: B006
    tag: str | None = None,
    json: Json = False,
) -> None:
    """Write down a vote, and show the leaderboard with intervals.

    Items are whatever you compare: models such as zoo/ink, or pictures. The
    file is only ever appended to. Without a vote, the leaderboard alone; with
    --user that person's, otherwise everybody's.

        vote votes.jsonl --user ada --better zoo/ink --worse zoo/neon
        vote votes.jsonl --user ada --order zoo/ink zoo/clay zoo/neon
        vote votes.jsonl --tag animals

    Args:
        votes: The file, begun when not there.
        user: Who votes.
        better: The better one of two.
        worse: The worse one.
        equal: Two that are equally good.
        both_bad: Two that are both bad.
        order: Several, best first.
        like: Liked, one by one.
        dislike: Disliked, one by one.
        tag: What kind of prompt it was about; or the board of one kind.
    """
    from tastemaker.choose import ballots
    from tastemaker.choose import votes as kinds
    from tastemaker.choose.votes import Vote

    said = []
    if (better is None) != (worse is None):
        raise InvalidArgument("--better and --worse belong together; give both")
    if better is not None and worse is not None:
        said.append(kinds.pair(better, worse))
    for pair, kind, name in ((equal, kinds.tie, "--equal"), (both_bad, kinds.both_bad, "--both-bad")):
        if pair and len(pair) != 2:
            raise InvalidArgument(f"{name} {' '.join(pair)}; expected two items")
        if pair:
            said.append(kind(*pair))
    said += [kinds.sort(order)] if order else []
    said += [kinds.like(item) for item in like] + [kinds.dislike(item) for item in dislike]
    if said:
        now = int(time.time())
        ballots.append(votes, [ballots.Ballot(Vote(choices, user, tag), now) for choices in said])
    told = _votes(votes)
    board = _ratings(told).leaderboard(person=user, tag=tag)
    if json:
        print_json({"votes": len(told), "about": board.about, "board": board.table.to_dicts()})
        return
    print_table(f"Leaderboard: {board.about}", board.table)
    err.print(f"{len(told)} votes in {votes}", soft_wrap=True)


def _shelf(book: Path | None, encoder: Path | None) -> tuple[Promptbook, Shelf]:
    from tastemaker.choose.stock import embedded, eyes, stock, zoo_book
    from tastemaker.data.read.grid import read_grid
    from tastemaker.generate import zoo

    clip = eyes(encoder)
    if book is None:
        found = embedded(zoo_book(), clip, lambda name: zoo.ROOT / name.removeprefix(zoo.PREFIX))
    else:
        found = embedded(read_grid(book), clip, lambda name: book / name)
    return found, stock(found, clip)


def _votes(path: Path) -> list[Vote]:
    from tastemaker.choose import ballots

    told = [ballot.vote for ballot in ballots.read(path)] if path.exists() else []
    if not told:
        raise DataError("no votes yet; add one with --better A --worse B", file=path)
    return told


def _ratings(told: list[Vote]) -> Ratings:
    from tastemaker.choose.rating import fit

    items = {item for one in told for choice in one.choices for item in choice.among if item is not None}
    return fit(told, Vocabulary.of(sorted(map(str, items))))


def _personal(votes: Path | None, user: str | None, book: Promptbook) -> Personal | None:
    """The person's taste in models, from votes on models; None for nobody in particular, or votes on pictures only."""
    from tastemaker.choose.personal import from_votes

    if user is None:
        return None
    if votes is None:
        raise InvalidArgument(f"--user {user} needs --votes FILE: nothing else tells whose taste that is")
    told = _about(votes, set(book.models.ids.series))
    if not told and not _about(votes, set(book.cells["picture"])):
        raise DataError("no vote is on these models or their pictures; are the names spelled alike?", file=votes)
    return from_votes(_ratings(told), user, book.models.ids) if told else None


def _about(votes: Path, known: set[Any]) -> list[Vote]:
    """The votes on nothing but these."""
    return [one for one in _votes(votes) if all(i is None or i in known for part in one.choices for i in part.among)]


def _taste(votes: Path | None, user: str | None, book: Promptbook) -> Taste | None:
    """The person's taste in pictures, from votes on those of the book; the crowd's for a newcomer; None without any."""
    from tastemaker.choose.stock import Look, taste

    if votes is None or user is None:
        return None
    told = _about(votes, set(book.cells["picture"]))
    return taste(told, user, Look.of(book).book(book)) if told else None


def _drawn(
    prompt: str,
    models: list[Any],
    book: Promptbook,
    taste: Taste | None,
    shelf: Shelf,
    machine: Machine,
    seed: int,
    to: Path,
) -> tuple[list[str], str]:
    """Draw with each model, put the pictures in order, write a sheet; the models best first, and whose order it is."""
    from tastemaker.choose.stock import Look
    from tastemaker.generate import zoo
    from tastemaker.generate.draw import draw
    from tastemaker.generate.picture import write_picture
    from tastemaker.generate.sheet import Cell, sheet

    drawn = []
    with counting("drawing", len(models)) as say:
        for done, name in enumerate(models):
            say(done, len(models), f"drawing with {name}")
            card = zoo.card_of(name)
            settings = {} if card is None else {"steps": card.steps, "guidance": card.guidance}
            model = machine.loading.load(zoo.resolve(name), ())
            drawn += draw(model, [zoo.with_triggers(prompt, [name])], seeds=[seed], **settings)  # type: ignore[arg-type]
    assert shelf.encoder is not None
    vectors, text = shelf.encoder.embed_pictures(drawn).vectors, shelf.encoder.embed_texts([prompt]).vectors[0]
    said = {name: f"shows the prompt: {fit:.2f}" for name, fit in zip(models, vectors @ text, strict=True)}
    order, why = sorted(models, key=lambda name: said[name], reverse=True), "how well they show the prompt"
    if taste is not None:
        table = taste.rank(Look.of(book).drawn(models, vectors, text)).table
        order, why = table["id"].to_list(), taste.about
        said = dict(zip(order, table["reason"].to_list(), strict=True))
    cells = [Cell(drawn[models.index(name)], (name, said[name])) for name in order]
    write_picture(sheet([cells[start : start + 4] for start in range(0, len(cells), 4)], title=prompt), to)
    return order, why
