"""Probes and questions to a trained model and its base: what it gives in to, still knows, and repeats.

mlx-persona probe

Replies are kept as they are written, in ``partial.jsonl``; the same command continues after a stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlx_persona import ui
from mlx_persona.awake import awake
from mlx_persona.config import ProbeConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.ability import Item, read_items
from mlx_persona.evals.canaries import Canary, Exposure
from mlx_persona.evals.drift import Drift, bypassed, mean_kl, row_losses, surprising, text_rows
from mlx_persona.evals.judge import Judge
from mlx_persona.evals.overlap import Overlap, overlap
from mlx_persona.evals.probe_card import HELD_OUT, Asked, ProbeCard
from mlx_persona.evals.probes import CATEGORIES, ProbeSet, quick_part, read_probes, shipped
from mlx_persona.generation.chat import find_model
from mlx_persona.generation.engine import Reply, Sampling, replies
from mlx_persona.generation.job import PARTIAL, Kept, keeping, key_of, waiting
from mlx_persona.models import adapters
from mlx_persona.models.load import LoadedModel, identity, load_model, load_tokenizer, resolve_model
from mlx_persona.runs import RUNS, adapter_hash, claim
from mlx_persona.schema import Conversation, Message
from mlx_persona.stages.canaries import measure_exposure, read_canaries
from mlx_persona.tokens.batches import Row, evenly, make_row
from mlx_persona.tokens.dataset import load_held_out, load_split
from mlx_persona.tokens.render import Renderer

BASE, ADAPTED, ALONE = "base", "adapted", "model"
NONE, SHIPPED_ITEMS = "none", "ability"


@dataclass(frozen=True)
class _Job:
    """Who is asked what; ``prompts`` are the token ids of ``asked.prompts``, ``labels`` the models in order."""

    model: str
    adapter: Path | None
    system: str
    asked: Asked
    prompts: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    canaries: tuple[list[Canary], int] | None
    key: str


@dataclass(frozen=True)
class _Measured:
    """What only the models themselves can tell; see :class:`ProbeCard`."""

    drift: Drift | None
    surprises: dict[str, list[bool]]
    exposures: dict[str, Exposure]


def probe(config: ProbeConfig, root: Path = RUNS) -> tuple[ProbeCard, Path]:
    """Ask, score, and write ``scores.json`` and ``replies.jsonl``.

    Returns:
        The scores, and the folder that they were written to.

    Raises:
        PersonaError: no model, no adapter, nothing to ask, a file of probes or questions with a mistake, or a judge
            that does not answer (the replies are kept).
        Interrupted: after KeyboardInterrupt; the replies so far are kept.
    """
    job = _plan(config)
    judge = Judge(config.judge, config.judge_model) if config.judge else None  # before anything is written
    known = _known_replies(Path(config.data), len(job.asked.chosen))
    folder = Path(config.out) if config.out else waiting(root.glob("probe-*"), job.key) or claim("probe", root)
    written, found = _ask(config, job, folder)
    overlaps, ratings = _overlaps(job, written, known), _ratings(judge, job, folder, written)
    card = ProbeCard(job.asked, written, found.drift, found.surprises, overlaps, found.exposures, ratings)
    about = {
        "model": job.model,
        "adapter": str(job.adapter) if job.adapter else None,
        "system": job.system,
        "probes": config.probes,
        "ability": config.ability,
        "sampling": {"max_tokens": config.max_tokens, "temperature": config.temperature, "top_p": config.top_p},
        "seed": config.seed,
        "judged_by": {"url": config.judge, "model": config.judge_model} if config.judge else None,
    }
    card.write(folder, about)
    (folder / PARTIAL).unlink(missing_ok=True)
    return card, folder


def _plan(config: ProbeConfig) -> _Job:
    """Find the model, choose what to ask, and name everything by one key."""
    probes = None if config.probes == NONE else read_probes(config.probes)
    items = _items(config.ability)
    if probes is None and not items:
        raise PersonaError("there must be probes or questions to ask, got none of either")
    model, adapter = find_model(config.model, config.adapter, ("dpo", "sft"))
    path = resolve_model(model)
    trained = adapters.read_spec(adapter).system if adapter else ""
    system = trained if config.system is None else config.system
    asked = _asked(config, probes, items, system)
    renderer = Renderer(load_tokenizer(path), system=system)
    for note in renderer.notes:
        ui.info(note)
    prompts = tuple(tuple(renderer.prompt(messages)) for messages in asked.prompts)
    depends = {
        "base": identity(path)["sha256"],
        "adapter": adapter_hash(adapter) if adapter else "",
        "prompts": prompts,
        "greedy_from": len(asked.chosen),
        "sampling": [config.max_tokens, config.temperature, config.top_p, config.seed],
    }
    labels = (BASE, ADAPTED) if adapter else (ALONE,)
    canaries = read_canaries(Path(config.canaries)) if config.canaries else None
    return _Job(model, adapter, system, asked, prompts, labels, canaries, key_of(depends))


def _items(named: str) -> list[Item]:
    if named == NONE:
        return []
    return read_items(shipped(f"{SHIPPED_ITEMS}.jsonl") if named == SHIPPED_ITEMS else Path(named))


def _asked(config: ProbeConfig, probes: ProbeSet | None, items: Sequence[Item], system: str) -> Asked:
    """What is asked, whole or in its quick part."""
    probes = probes or ProbeSet((), (), {})
    chosen, asked_items = list(probes.probes), list(items)
    if config.quick:
        chosen = quick_part(chosen, lambda one: one.category)
        asked_items = quick_part(asked_items, lambda item: item.kind)
    prompts = [one.messages(config.name, config.topic, system) for one in chosen]
    prompts += [(Message("user", item.ask),) for item in asked_items]
    return Asked(probes, tuple(chosen), tuple(asked_items), tuple(prompts), config.quick)


def _ask(config: ProbeConfig, job: _Job, folder: Path) -> tuple[dict[str, list[Reply]], _Measured]:
    """The replies by label (those kept from before, and the missing ones), and what is measured on the models."""
    n = len(job.prompts)
    with awake(), keeping(folder, job.key, n * len(job.labels), "probes") as kept:
        loaded = load_model(job.model)
        for place, label in enumerate(job.labels):
            if label == ADAPTED and job.adapter is not None:
                adapters.load_adapter(loaded.model, job.adapter, loaded.identity)
            _write(config, job, loaded, kept, place * n)
        written = {label: [kept.written[place * n + i] for i in range(n)] for place, label in enumerate(job.labels)}
        return written, _measure(config, job, loaded, written)


def _measure(config: ProbeConfig, job: _Job, loaded: LoadedModel, written: dict[str, list[Reply]]) -> _Measured:
    """Canaries on any model; the rest compares an adapter, which is on now, with its base."""
    exposures = _exposures(job, loaded)
    if job.adapter is None:
        return _Measured(None, {}, exposures)
    rows = _neutral_rows(loaded, config.quick)
    with ui.progress("neutral text", len(rows)) as bar:
        drift = mean_kl(loaded.model, rows, bar.advance)
    return _Measured(drift, _surprises(job, loaded, written), exposures)


def _exposures(job: _Job, loaded: LoadedModel) -> dict[str, Exposure]:
    """How well each model knows the planted secrets, if there are any."""
    if job.canaries is None:
        return {}
    planted, seed = job.canaries
    found = {}
    for label in job.labels:
        with bypassed(loaded.model) if label == BASE else nullcontext():
            found[label] = measure_exposure(loaded, planted, seed, job.system, f"canaries: {label}")
    return found


def _write(config: ProbeConfig, job: _Job, loaded: LoadedModel, kept: Kept, first: int) -> None:
    """Have the loaded model answer what is missing; its reply to prompt ``i`` is number ``first + i``."""
    count = len(job.asked.chosen)
    for places, temperature in ((range(count), config.temperature), (range(count, len(job.prompts)), 0.0)):
        missing = kept.missing(first + i for i in places)
        if missing:
            rows = [number - first for number in missing]
            sampling = Sampling(config.max_tokens, temperature, config.top_p, config.seed)
            prompts = [job.prompts[i] for i in rows]
            keep = kept.keeper(missing)
            replies(loaded, prompts, sampling, batch_size=config.batch_size, rows=rows, on_reply=keep)


def _neutral_rows(loaded: LoadedModel, quick: bool) -> list[Row]:
    """The shipped neutral text as rows."""
    text = shipped("neutral.txt").read_text(encoding="utf-8")
    rows = text_rows(loaded.tokenizer, text)
    return quick_part(rows, lambda _: "") if quick else rows


def _surprises(job: _Job, loaded: LoadedModel, written: dict[str, list[Reply]]) -> dict[str, list[bool]]:
    """Which replies to the probes the base model finds less likely than nearly all of its own."""
    if not job.asked.chosen:
        return {}
    renderer = Renderer(loaded.tokenizer, system=job.system)
    losses = {}
    for label in job.labels:
        rows = []
        for messages, reply in zip(job.asked.prompts, written[label][: len(job.asked.chosen)], strict=False):
            rendered = renderer.render((*messages, Message("assistant", reply.text)))
            assert rendered is not None  # nothing limits its length
            rows.append(make_row(rendered.ids, rendered.mask))
        with ui.progress(f"surprise: {label}", len(rows)) as bar, bypassed(loaded.model):
            losses[label] = row_losses(loaded.model, rows, bar.advance)
    return {label: surprising(losses[label], losses[BASE]) for label in job.labels}


def _ratings(
    judge: Judge | None, job: _Job, folder: Path, written: dict[str, list[Reply]]
) -> dict[str, dict[str, dict[str, float]]]:
    """What the judge, if the user named one, thinks of the replies that no rule can score."""
    places = [i for i, one in enumerate(job.asked.chosen) if CATEGORIES[one.category].rule is None]
    if judge is None or not places:
        return {}
    judge.keep_in(folder)
    rubric = job.asked.probes.rubric
    total = len(job.labels) * len(places) * len(rubric)
    ui.info(f"sending {len(job.labels) * len(places)} replies to the judge, {total} questions")
    ratings: dict[str, dict[str, dict[str, float]]] = {label: {} for label in job.labels}
    with ui.progress("judge", total) as bar:
        for label in job.labels:
            for i in places:
                given = ratings[label][job.asked.chosen[i].id] = {}
                for dimension, meaning in rubric.items():
                    rating = judge.rate(dimension, meaning, job.asked.prompts[i], written[label][i].text)
                    given[dimension] = rating.score
                    bar.advance()
    return ratings


def _known_replies(folder: Path, count: int) -> tuple[list[str], list[str]] | None:
    """All replies that were trained on and at most ``count`` held-out ones; None where there is no such data."""
    if not count:
        return None
    try:
        training = _texts(load_split(folder, "train"))
        held_out = _texts(load_held_out(folder, ("test", "valid"))[1])
    except PersonaError as error:
        ui.info(f"not compared with training replies: {error.message}")
        return None
    return training, [held_out[i] for i in evenly(len(held_out), count)]


def _texts(conversations: Sequence[Conversation]) -> list[str]:
    return [m.content for c in conversations for m in c.messages if m.role == "assistant" and m.train]


def _overlaps(
    job: _Job, written: dict[str, list[Reply]], known: tuple[list[str], list[str]] | None
) -> dict[str, Overlap]:
    """What the probes' replies of each model, and the person's held-out ones, share with the training replies."""
    if known is None:
        return {}
    training, held_out = known
    said = {label: [reply.text for reply in written[label][: len(job.asked.chosen)]] for label in job.labels}
    return {label: overlap(texts, training) for label, texts in {**said, HELD_OUT: held_out}.items()}
