"""What a run left on disk, read as far as it can be: nothing here fails on a file that is missing or damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.report.figures import Document, Figure, is_number, read_document, total
from mlx_persona.runs import ADAPTER_FILES, adapter_hash, file_hash, find_adapter, is_held

STAGES = {"sft": "sft", "dpo": "dpo", "fused": "fuse", "eval": "eval", "sweep": "sweep"}
# Ancestors and descendants that are followed; a chain is three long.
_DEEPEST = 8


@dataclass(frozen=True)
class Events:
    """The events of ``metrics.jsonl`` by their kind, and how many lines could not be read."""

    name: str
    by_kind: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unread: int = 0

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind, in their order."""
        return self.by_kind.get(kind, [])

    def figure(self, kind: str, index: int, key: str) -> Figure | None:
        """A number of one event (-1: of the last), or None."""
        found = self.of(kind)
        index = index % len(found) if found else 0
        value = found[index].get(key) if found else None
        return Figure(value, f"{self.name}#{kind}/{index}/{key}") if is_number(value) else None

    def series(self, kind: str, key: str) -> list[tuple[float, Figure]]:
        """``(update, figure)`` of every event of a kind that has both."""
        out = []
        for i, event in enumerate(self.of(kind)):
            figure = self.figure(kind, i, key)
            if figure is not None and is_number(event.get("update")):
                out.append((event["update"], figure))
        return out

    def sum(self, kind: str, key: str) -> Figure | None:
        """The sum of a key over all events of a kind."""
        return total([figure for _, figure in self.series(kind, key)], f"{self.name}#{kind}/*/{key}")


@dataclass(frozen=True)
class Record:
    """One run, as its folder shows it.

    Attributes:
        path: its folder, as the user named it.
        info: ``run.json``.
        config: ``config.yaml``.
        scores: ``scores.json``, of an evaluation.
        events: ``metrics.jsonl``.
        stage: ``sft``, ``dpo``, ``fuse``, ``eval``, or ``""`` where nothing tells.
        status: ``done``, ``early`` (stopped by patience), ``running``, ``stopped`` (interrupted), ``killed``,
            ``failed``, or ``""`` where nothing tells.
        notes: what could not be read.
    """

    path: Path
    info: Document
    config: Document
    scores: Document
    events: Events
    stage: str
    status: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def model(self) -> str:
        """The base model's name, without its folders."""
        return self.info.text("model_identity", "name") or Path(self.info.text("model")).name

    @property
    def seconds(self) -> Figure | None:
        """How long it took, or has taken until the last update."""
        return self.info.number("seconds") or self.events.figure("train", -1, "seconds")

    @property
    def updates(self) -> Figure | None:
        """How many updates were made."""
        return self.info.number("updates") or self.events.figure("train", -1, "update")

    @property
    def planned(self) -> Figure | None:
        """How many updates it was meant to make."""
        return self.info.number("planned_updates") or self.config.number("updates")

    @cached_property
    def tokens(self) -> Figure | None:
        """How many tokens were read in training."""
        return self.events.sum("train", "tokens")

    @property
    def peak_bytes(self) -> Figure | None:
        """The most memory that it held."""
        return self.info.number("peak_bytes") or self.events.figure("train", -1, "peak_bytes")

    @property
    def first_loss(self) -> Figure | None:
        """The held-out loss before the first update."""
        return self.info.number("base_eval_loss") or self.events.figure("eval", 0, "loss")

    @property
    def best_loss(self) -> Figure | None:
        """The lowest held-out loss after the first update."""
        kept = self.info.number("eval_loss")
        later = [figure for update, figure in self.events.series("eval", "loss") if update > 0]
        return kept or min(later, key=lambda figure: figure.value, default=None)

    @cached_property
    def key(self) -> str:
        """The hash by which an evaluation knows what this run made; ``""`` where there is nothing to hash."""
        if self.stage == "fuse":
            return self.info.text("identity", "sha256")
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged checkpoint
            adapter = find_adapter(self.path)
            return _hash(adapter_hash, adapter, [adapter / name for name in ADAPTER_FILES]) if adapter else ""
        return ""


def _hash(hashing: Callable[[Path], str], path: Path, files: Sequence[Path]) -> str:
    """``hashing(path)``, computed anew where one of the files in it has changed: a live page asks every few seconds."""
    stats = [file.stat() for file in files]
    return _hash_as_of(hashing, path.resolve(), tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


@lru_cache(maxsize=64)
def _hash_as_of(hashing: Callable[[Path], str], path: Path, stamps: tuple[tuple[int, int], ...]) -> str:
    return hashing(path)


def is_run(path: Path) -> bool:
    """Whether there is anything of a run in a folder."""
    return any((path / name).is_file() for name in ("run.json", "metrics.jsonl", "scores.json"))


def read_run(path: Path) -> Record:
    """Everything that a run directory tells.

    Raises:
        PersonaError: there is no such folder, or nothing of a run in it.
    """
    if not path.is_dir():
        raise PersonaError(f"no such run: {path}")
    if not is_run(path):
        raise PersonaError(
            f"{path} is no run: it has no run.json, metrics.jsonl or scores.json", "name one of the folders in runs/"
        )
    info = read_document(path / "run.json")
    held = info.text("status") == "running" and is_held(path)
    if not held:  # it may have ended between the two looks
        info = read_document(path / "run.json")
    config, scores = (read_document(path / name) for name in ("config.yaml", "scores.json"))
    events = read_events(path / "metrics.jsonl")
    stage = info.text("stage") or _stage_by_name(path)
    expected = [info, config, *([scores] if stage == "eval" else [])]
    notes = [document.problem for document in expected if document.problem]
    if events.unread:
        notes.append(f"metrics.jsonl: {events.unread} lines could not be read")
    if stage in ("sft", "dpo") and not events.by_kind:
        notes.append("metrics.jsonl is missing or empty")
    return Record(path, info, config, scores, events, stage, _status(info, held, scores), tuple(notes))


def read_events(path: Path) -> Events:
    """The events of a run. A last line that is still being written is no damage."""
    name = f"{path.parent.name}/{path.name}"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return Events(name)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    unread = 0
    for line in lines[:-1]:
        try:
            event = json.loads(line)
            by_kind.setdefault(str(event["event"]), []).append(event)
        except (ValueError, KeyError, TypeError, RecursionError):
            unread += 1
    return Events(name, by_kind, unread)


def _stage_by_name(path: Path) -> str:
    match = re.fullmatch(r"([a-z]+)-\d+", path.resolve().name)
    if match and match[1] in STAGES:
        return STAGES[match[1]]
    return "eval" if (path / "scores.json").is_file() else ""


def _status(info: Document, held: bool, scores: Document) -> str:
    said = info.text("status")
    if said == "running":
        return "running" if held else "killed"
    if said == "stopped":
        return "early" if info.number("eval_loss") else "stopped"
    if said in ("done", "failed"):
        return said
    return "done" if scores.value else ""


def find(name: str, near: Path) -> Path | None:
    """A path that a run recorded: as it stands, or beside one of the folders that the run lies in."""
    if not name or "\0" in name:
        return None
    around = (Path(), *near.resolve().parents)
    with suppress(OSError):  # a name too long for any file
        return next((folder / name for folder in around if (folder / name).is_dir()), None)
    return None


def lineage(record: Record) -> list[Record]:
    """The run with all that it was made from, and all that was made from it: oldest first.

    For an evaluation that is what it judged, and all of its ancestors.
    """
    if record.stage == "eval":
        return _unique([one for judged in _judged(record) for one in (*_ancestors(judged), judged)])
    return _unique([*_ancestors(record), record, *_descendants(record)])


def _read(name: str, near: Path) -> Record | None:
    found = find(name, near)
    with suppress(PersonaError):
        return read_run(found) if found else None
    return None


def _judged(record: Record) -> list[Record]:
    """The runs that an evaluation names, where they still are what was judged."""
    out = []
    for label in record.info.mapping("judged"):
        run = _read(record.info.text("judged", label, "run"), record.path)
        if run is not None and run.key and run.key == record.info.text("judged", label, "sha256"):
            out.append(run)
    return out


def _ancestors(record: Record) -> list[Record]:
    out: list[Record] = []
    seen = {record.path.resolve()}
    while len(out) < _DEEPEST and (parent := _read(record.info.text("parent"), record.path)) is not None:
        if parent.path.resolve() in seen:
            break
        seen.add(parent.path.resolve())
        out.insert(0, parent)
        record = parent
    return out


def _descendants(record: Record) -> list[Record]:
    """Runs beside this one that name it, or one of its descendants, as their parent."""
    family, out = {record.path.resolve()}, []
    beside = list(siblings(record, lambda info: bool(info.text("parent"))))
    for _ in range(_DEEPEST):
        for run in beside:
            parent, own = find(run.info.text("parent"), run.path), run.path.resolve()
            if parent is not None and parent.resolve() in family and own not in family:
                family.add(own)
                out.append(run)
    return out


def siblings(record: Record, fits: Callable[[Document], bool]) -> Iterator[Record]:
    """The other runs in the same folder whose ``run.json`` fits, by their names; only those are read whole."""
    own = record.path.resolve()
    for path in sorted(own.parent.iterdir()):
        if path.is_dir() and path != own and not path.name.startswith(".") and fits(read_document(path / "run.json")):
            with suppress(PersonaError):
                yield read_run(path)


def _unique(records: Sequence[Record]) -> list[Record]:
    return list({record.path.resolve(): record for record in records}.values())


def find_eval(record: Record) -> Record | None:
    """The newest evaluation beside a run that judged exactly what this run made; rather one that has a card."""
    beside = list(siblings(record, lambda info: bool(info.mapping("judged"))))
    if not beside or not record.key:  # a key takes a moment
        return None
    fits = []
    for run in beside:
        judged = run.info.mapping("judged")
        if run.stage == "eval" and any(run.info.text("judged", label, "sha256") == record.key for label in judged):
            finished = run.info.number("finished")
            carded = bool(run.scores.mapping("figures"))
            fits.append((carded, finished.value if finished else 0.0, run.name, run))
    return max(fits, key=lambda fit: fit[:3])[3] if fits else None


def find_data(record: Record, option: str) -> tuple[Document | None, str]:
    """The report of the data that a run learned from.

    Args:
        record: a training run.
        option: which option of its names the folder: ``data`` of SFT, ``pairs`` of DPO.

    Returns:
        ``report.json`` of that folder, or None and why there is none, in words.
    """
    named = record.config.text(option)
    folder = find(named, record.path)
    if folder is None:
        return None, f"the folder {named} of its data is gone" if named else "nothing tells what it was trained on"
    recorded, train = record.info.text("data_hashes", "train"), folder / "train.jsonl"
    if not train.is_file() or _hash(file_hash, train, [train]) != recorded:
        return None, f"{named} has changed since, so what it holds now is not what this run learned from"
    report = read_document(folder / "report.json")
    return (None, f"in {named}, {report.problem}") if report.problem else (report, "")
