"""Generate and Mix: orders for the workers, and the page on which their pictures appear.

Who names no models has them chosen (`serve.chooser`), with the reason and the probability of each; what is finished
then stands in the order of the person's taste. Only models this server was started with may draw, by their names; a
path in a request is just a name nobody knows. An
upload is decoded by the strict reader, laid down as a PNG of ours, and named by its content: nothing of the file that
came, neither its name nor what was hidden in it, reaches the disk.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi import Path as InPath
from starlette.responses import Response

from tastemaker.errors import InvalidArgument, UnknownId, UnknownName
from tastemaker.generate.picture import read_picture, write_picture
from tastemaker.generate.plan import plan
from tastemaker.serve import reuse
from tastemaker.serve.answers import Refused
from tastemaker.serve.cards import Card, card, show
from tastemaker.serve.chooser import Chosen, drawing
from tastemaker.serve.gallery import Model, Picture
from tastemaker.serve.jobs import Job
from tastemaker.serve.pages.taste import Key
from tastemaker.serve.reuse import START
from tastemaker.serve.visit import Here, Site, Visit

router = APIRouter(tags=["make"])
Number = Annotated[int, InPath(ge=1, le=2**62)]
Name = Annotated[str, Form(max_length=200)]
_SEED = 2**31
_ENDED = ("done", "failed", "cancelled")


@router.get("/generate", summary="A form: a prompt, and who shall draw it")
def generate_form(
    here: Here,
    prompt: Annotated[str, Query(max_length=2000)] = "",
    models: Annotated[list[str], Query(max_length=50)] = [],  # noqa: B006  FastAPI copies it
    seed: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    steps: Annotated[int | None, Query(ge=1, le=150)] = None,
    guidance: Annotated[float | None, Query(ge=0, le=30)] = None,
    negative: Annotated[str, Query(max_length=2000)] = "",
    like: Annotated[
        str, Query(max_length=200, description="The picture whose recipe this is; what is lacking is told.")
    ] = "",
) -> Response:
    known = drawing(here.site.gallery)
    stocked = here.site.chooser.stocked() if known else ""
    facts = {
        "models": [_fact(model) for model in known], "prompt": prompt, "chosen": models, "seed": seed,
        "steps": steps, "guidance": guidance, "negative": negative, "jobs": [_job(job) for job in _mine(here)],
        "lacking": reuse.lacking(here.site.gallery, here.site.gallery.get(like)) if like else [],
        "choosing": "uniform" if isinstance(stocked, str) else "retrieve",
        "because": stocked if isinstance(stocked, str) else "",
    }  # fmt: skip
    view = {name: sorted({value for one in known if (value := getattr(one, name))}) for name in ("base", "licence")}
    return here.page("generate.html", facts, view=view)


@router.post("/generate", summary="Order pictures of a prompt; the answer is a job")
def generate(
    here: Here,
    prompt: Annotated[str, Form(max_length=2000)],
    models: Annotated[list[str], Form(max_length=50, description="None: they are chosen for you.")] = [],  # noqa: B006
    count: Annotated[int, Form(ge=1, le=12, description="How many models are chosen for you.")] = 4,
    base: Annotated[list[str], Form(max_length=20, description="Choose only models tuned from these.")] = [],  # noqa: B006
    licence: Annotated[list[str], Form(max_length=20, description="Choose only models under these.")] = [],  # noqa: B006
    each: Annotated[int, Form(ge=1, le=8, description="Pictures by each model.")] = 1,
    seed: Annotated[int | None, Form(ge=0, lt=2**63 - 8)] = None,
    negative: Annotated[str, Form(max_length=2000)] = "",
    steps: Annotated[int | None, Form(ge=1, le=150)] = None,
    guidance: Annotated[float | None, Form(ge=0, le=30)] = None,
    key: Key = None,
) -> Response:
    prompt, negative = " ".join(prompt.split()), " ".join(negative.split())
    _allowed(here, prompt)
    site, base, licence = here.site, [one for one in base if one], [one for one in licence if one]
    asked = [prompt, models, count, base, licence, each, seed, negative, steps, guidance]
    if (job := _sent_before(here, key, asked)) is not None:
        return _on_its_way(here, job)
    about: dict[str, Any] = {"policy": "asked for"}
    names = [_model(site, name).name for name in dict.fromkeys(models)]
    if not models:
        chosen = site.chooser.choose(prompt, here.person, count, site.rng(), base=base, licence=licence)
        names, about = list(chosen.models), _about(chosen)
    first = seed if seed is not None else int(site.rng().integers(_SEED))
    seeds = [first + at for at in range(each)]
    plan([prompt], names, seeds, negative=negative, steps=steps, guidance=guidance)  # says what is wrong with it
    work = {
        "kind": "generate", "prompt": prompt, "negative": negative, "models": names, "seeds": seeds, "steps": steps,
        "guidance": guidance, "asked": asked, **about,
    }  # fmt: skip
    return _ordered(here, work, key=key)


@router.get("/mix", summary="A form: the content of one picture in the style of other models")
def mix_form(
    here: Here,
    picture: Annotated[str, Query(max_length=200, description="To begin with.")] = "",
    like: Annotated[str, Query(max_length=200, description="A mix whose settings to take.")] = "",
    pick: Annotated[bool, Query(description="Begin with another picture than that mix did.")] = False,
) -> Response:
    site = here.site
    site.gallery.refresh()
    models = drawing(site.gallery)
    model = site.gallery.get(like) if like else None
    if model is not None and model.recipe.kind != "cocktail":
        raise InvalidArgument(f"'{like}' was not mixed; open it and choose Mix it, or Use this recipe")
    first = None if model is None or pick else reuse.source_of(site.gallery, model)
    source = site.gallery.get(picture) if picture else first
    recent = [card(one) for one in site.gallery.everything()[-24:][::-1]]
    given: dict[str, Any] = START | {"negative": "", "styles": [], "share": None, "mask": ""}
    given |= {"prompt": "" if source is None else source.prompt} | (
        {} if model is None else reuse.settings_of(site.gallery, model)
    )
    facts = {
        "source": None if source is None else card(source), "models": [_fact(model) for model in models],
        "content": given.pop("content", "") or _reader(models, source), "settings": given, "like": like,
        "lacking": [] if model is None else reuse.lacking(site.gallery, model),
        "jobs": [_job(job) for job in _mine(here)],
    }  # fmt: skip
    return here.page("mix.html", facts, view={"recent": recent})


@router.post("/mix", summary="Order a cocktail: a picture in the style of models; the answer is a job")
def mix(
    here: Here,
    styles: Annotated[list[str], Form(max_length=12)] = [],  # noqa: B006
    prompt: Annotated[str, Form(max_length=2000, description="What the picture shows; its own when empty.")] = "",
    picture: Annotated[str, Form(max_length=200, description="Id of a picture of the gallery, or upload one.")] = "",
    upload: UploadFile | None = None,
    content: Annotated[str, Form(max_length=200, description="Model that reads it; the one that drew it.")] = "",
    negative: Annotated[str, Form(max_length=2000)] = "",
    strength: Annotated[float, Form(gt=0, le=1, description="Share of the steps that are drawn.")] = START["strength"],
    alpha: Annotated[float, Form(ge=0, le=10)] = START["alpha"],
    beta: Annotated[float, Form(ge=0, le=5)] = START["beta"],
    guidance: Annotated[float, Form(ge=0, le=30)] = START["guidance"],
    attention: Annotated[float, Form(ge=0, le=1, description="Share of steps with attention injected.")] = START[
        "attention"
    ],
    convolution: Annotated[float, Form(ge=0, le=1, description="Share of steps with features injected.")] = START[
        "convolution"
    ],
    steps: Annotated[int, Form(ge=2, le=150)] = START["steps"],
    inversion: Annotated[Literal["ddim", "fixed-point", "bdia", "edict"], Form()] = "ddim",
    mask: Annotated[Literal["", "left", "right", "top", "bottom"], Form(description="Side that keeps structure.")] = "",
    mask_upload: Annotated[UploadFile | None, Form(description="White keeps its structure, black is free.")] = None,
    share: Annotated[float | None, Form(ge=0, le=1, description="Mix two styles: share of the second.")] = None,
    key: Key = None,
) -> Response:
    site = here.site
    source = site.gallery.get(picture) if picture else None
    file, image = _source(site, source, upload)
    given = " ".join(prompt.split()) or ("" if source is None else source.prompt)
    _allowed(here, given)
    if not styles:
        raise InvalidArgument("no style was chosen; choose at least one model to draw the picture anew")
    if share is not None and len(styles) != 2:
        raise InvalidArgument(f"a share mixes two styles into one; {len(styles)} chosen: choose two, or leave it out")
    reader = content or _reader(drawing(site.gallery), source)
    cover: str | None = mask or None
    if mask_upload is not None and mask_upload.size:
        cover = str(_taken(site, mask_upload)[0])
    unwanted = " ".join(negative.split())
    plan([given], [reader], [0], negative=unwanted)
    work = {
        "kind": "mix", "picture": str(file), "source": image, "content": _model(site, reader).name,
        "styles": list(dict.fromkeys(_model(site, name).name for name in styles)), "prompt": given,
        "negative": unwanted, "mask": cover, "shares": [] if share is None else [share],
        "settings": {
            "strength": strength, "alpha": alpha, "beta": beta, "guidance": guidance, "attention": attention,
            "convolution": convolution, "steps": steps, "inversion": inversion,
        },
    }  # fmt: skip
    return _ordered(here, work, needs=[file], key=key)


@router.post("/matrix", summary="Order every model's content in every model's style; the answer is a job")
def matrix(
    here: Here,
    prompt: Annotated[str, Form(max_length=2000)],
    models: Annotated[list[str], Form(min_length=2, max_length=6)],
    seed: Annotated[int, Form(ge=0, lt=2**63)] = 0,
    negative: Annotated[str, Form(max_length=2000)] = "",
    alpha: Annotated[float, Form(ge=0, le=10)] = START["alpha"],
    guidance: Annotated[float, Form(ge=0, le=30)] = START["guidance"],
    steps: Annotated[int, Form(ge=2, le=150)] = START["steps"],
    key: Key = None,
) -> Response:
    prompt, names = " ".join(prompt.split()), [_model(here.site, name).name for name in dict.fromkeys(models)]
    _allowed(here, prompt)
    plan([prompt], names, [seed], negative=negative)
    work = {
        "kind": "matrix", "prompt": prompt, "models": names, "seed": seed, "negative": " ".join(negative.split()),
        "settings": {**START, "alpha": alpha, "guidance": guidance, "steps": steps},
    }  # fmt: skip
    return _ordered(here, work, key=key)


@router.get("/job/{number}", summary="A job: how far it is, and the pictures that are finished")
def job_page(here: Here, number: Number) -> Response:
    return _told(here, _own(here, number))


@router.post("/job/{number}/cancel", summary="Cancel a job; what is finished stays")
def cancel(here: Here, number: Number) -> Response:
    _own(here, number)
    return _told(here, here.site.jobs.cancel(number))


# -- orders ------------------------------------------------------------------------------------------------------------


def _ordered(here: Visit, work: dict[str, Any], *, needs: Sequence[Path] = (), key: str | None) -> Response:
    if here.public and len(_mine(here, waiting=True)) >= here.site.settings.orders:
        raise Refused(
            429, f"{here.site.settings.orders} of your orders are not finished yet; wait for one, or cancel it"
        )
    return _on_its_way(here, here.site.jobs.enqueue(work, user=here.person, needs=needs, key=_of(here, key)))


def _about(chosen: Chosen) -> dict[str, Any]:
    """What is kept with a job of how its models were chosen."""
    chances, reasons = (dict(zip(chosen.models, of, strict=True)) for of in (chosen.probabilities, chosen.reasons))
    return {"policy": chosen.policy, "chances": chances, "reasons": reasons, "about": chosen.about}


def _on_its_way(here: Visit, number: int) -> Response:
    return here.go(f"/job/{number}", {"job": number, "page": f"/job/{number}"})


def _sent_before(here: Visit, key: str | None, asked: list[Any]) -> int | None:
    """The job of an order that is sent again: chance would choose other models, and another seed."""
    job = None if key is None else here.site.jobs.keyed(str(_of(here, key)))
    return job.job if job is not None and job.work.get("asked") == asked else None


def _of(here: Visit, key: str | None) -> str | None:
    """A key of this person's own."""
    return None if key is None else f"{here.person[:90]} {key}"


def _allowed(here: Visit, prompt: str) -> None:
    if not prompt:
        raise InvalidArgument("the prompt is empty; say what the picture shows, such as 'a red apple'")
    if here.public and here.site.settings.refuse(prompt):
        raise InvalidArgument("this gallery draws no such pictures; choose another prompt")


def _source(site: Site, picture: Picture | None, upload: UploadFile | None) -> tuple[Path, str]:
    """File and address of the picture to start from."""
    if upload is not None and upload.size:
        return _taken(site, upload)
    if picture is None:
        raise InvalidArgument("no picture to start from; choose one of the gallery, or upload one")
    return picture.file, card(picture).image


def _taken(site: Site, upload: UploadFile) -> tuple[Path, str]:
    """An upload as a picture of ours. Raises InvalidArgument for what is none."""
    settings = site.settings
    content = upload.file.read(settings.upload_bytes + 1)
    if len(content) > settings.upload_bytes:
        raise Refused(413, f"an upload of more than {settings.upload_bytes:,} bytes; send a smaller picture")
    settings.uploads.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=settings.uploads, prefix=".") as raw:
        raw.write(content)
        raw.flush()
        try:
            image = read_picture(raw.name, limit=settings.upload_pixels)
        except ValueError as error:
            problem = getattr(error, "problem", str(error))
            raise InvalidArgument(f"the upload cannot be used: {problem}") from error
    id = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
    return write_picture(image, settings.uploads / f"{id}.png"), f"/uploads/{id}.png"


def _model(site: Site, name: str) -> Model:
    known = {model.name: model for model in drawing(site.gallery)}
    if name not in known:
        raise UnknownName("model that draws here", name[:80], known)
    return known[name]


def _reader(models: Sequence[Model], source: Picture | None) -> str:
    """The model that drew the picture, or the first there is."""
    names = [model.name for model in models]
    drew = "" if source is None else source.recipe.models[0].name
    return drew if drew in names else names[0] if names else ""


def _fact(model: Model) -> dict[str, Any]:
    return {
        "name": model.name, "title": model.title, "maker": model.maker, "base": model.base, "licence": model.licence,
    }  # fmt: skip


# -- jobs --------------------------------------------------------------------------------------------------------------


def _mine(here: Visit, *, waiting: bool = False) -> list[Job]:
    jobs = here.site.jobs.jobs(user=here.person, limit=20)
    return [job for job in jobs if job.state not in _ENDED] if waiting else jobs


def _own(here: Visit, number: int) -> Job:
    job = here.site.jobs.job(number)
    if here.public and job.user != here.person:
        raise UnknownId(f"there is no job {number} of yours")
    return job


def _told(here: Visit, job: Job) -> Response:
    site = here.site
    site.gallery.refresh()
    result = job.result or {}
    ids = list(result.get("pictures") or [item.id for item in site.store.items(job=job.job)])
    pictures = [site.gallery.get(id) for id in dict.fromkeys(ids) if site.gallery.has(id)]
    ended = job.state in _ENDED
    ranked = site.chooser.rank(here.person, pictures) if ended and job.work.get("kind") == "generate" else None
    why = {} if ranked is None else {one.id: w for one, w in zip(ranked.pictures, ranked.reasons, strict=True)}
    facts = {
        "job": _job(job), "ahead": site.jobs.ahead(job.job), "wanted": _wanted(job),
        "cards": _shown(here, job, pictures if ranked is None else ranked.pictures), "places": why,
        "ordered": None if ranked is None else ranked.about, "numbers": result.get("numbers", {}),
        "rows": result.get("rows"), "ended": ended,
    }  # fmt: skip
    view = {
        "titles": {name: model.title for name, model in site.gallery.models.items()},
        "source": job.work.get("source"),
    }
    return here.page("_job.html" if here.htmx else "job.html", facts, view=view)


def _shown(here: Visit, job: Job, pictures: Sequence[Picture]) -> list[Card]:
    """The pictures; each is logged when it first appears, with the probability with which its model was chosen."""
    site, seen = here.site, here.site.store.seen(here.person)
    policy, chances = str(job.work.get("policy", "asked for")), job.work.get("chances", {})
    reasons = job.work.get("reasons", {})
    new = [one for one in pictures if one.id not in seen and not one.hidden]
    p, why = [chances.get(one.model, 1.0) for one in new], [reasons.get(one.model, "") for one in new]
    fresh = {one.id: one for one in show(site, here.person, new, f"generate {policy}", p, why=why)}
    words = site.store.words(here.person)
    return [fresh.get(one.id) or card(one, words.get(one.id), why=reasons.get(one.model, "")) for one in pictures]


def _wanted(job: Job) -> int:
    """How many pictures it will make."""
    work = job.work
    if work["kind"] == "generate":
        return len(work["models"]) * len(work["seeds"])
    return len(work["models"]) ** 2 if work["kind"] == "matrix" else len(work["shares"]) or len(work["styles"])


def _job(job: Job) -> dict[str, Any]:
    """A job without paths of this machine."""
    work = {name: value for name, value in job.work.items() if name not in ("picture", "mask", "asked")}
    return {
        "job": job.job, "state": job.state, "progress": job.progress, "message": job.message, "work": work,
        "time": job.time, "changed": job.changed,
    }  # fmt: skip
