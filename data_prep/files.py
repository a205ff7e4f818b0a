"""Which files to read, and with which importer; and reading them all, with a limit on unreadable lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_prep.sources import (
    SOURCES,
    Bad,
    Head,
    Item,
    RawChat,
    RawConversation,
    RawMessage,
    ReadOptions,
    Source,
    by_name,
    detect,
)
from data_prep.sources.base import SUFFIXES
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError

QUARANTINE, REDACTIONS = "quarantine.jsonl", "redactions.jsonl"
_Counted = TypeVar("_Counted", RawConversation | Bad, RawMessage | Bad)
# What a cleaning writes, the report last.
OUTPUTS = ("train.jsonl", "valid.jsonl", "test.jsonl", QUARANTINE, REDACTIONS, "report.html", "report.json")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files with their importers, in reading order, and files of folders that are no chats."""

    files: tuple[tuple[Path, Source], ...]
    skipped: tuple[str, ...]

    @property
    def by_sender(self) -> bool:
        """Whether some file needs ``--me``."""
        return any(source.by_sender for _, source in self.files)


def find(config: CleanConfig) -> Inputs:
    """What ``config.raw`` names: files and zips as given; folders whole if an importer knows them, else searched.

    A file that was named must be readable; one that was only found in a folder is skipped when it is
    empty or of no known format.

    Raises:
        PersonaError: nothing named, no such path, an empty or unknown file, nothing to read in a folder.
    """
    if not config.raw:
        raise PersonaError("name at least one file or folder to read")
    out = Path(config.out).resolve()
    files: dict[Path, Source] = {}
    skipped: list[str] = []
    for raw in config.raw:
        path = Path(raw)
        if not path.exists():
            raise PersonaError(f"no such file or folder: {path}")
        if not path.is_dir():
            files[path] = _importer(path, config.source)
            continue
        found = list(_inside(path, out, config.source))
        if not any(source for _, source in found):
            raise PersonaError(f"{path} has no chats that I know", _formats())
        skipped += [str(p) for p, source in found if source is None]
        files |= {p: source for p, source in found if source is not None}
    for path in files:
        if path.resolve().parent == out and path.name in OUTPUTS:
            raise PersonaError(f"{path} would be overwritten", "write elsewhere with --out")
    return Inputs(tuple(files.items()), tuple(skipped))


def _inside(folder: Path, out: Path, wanted: str) -> Iterator[tuple[Path, Source | None]]:
    """A folder as one export, or what lies in it: without hidden files, and without what an earlier run wrote."""
    if (whole := _known(Head.of(folder), wanted)) is not None:
        yield folder, whole
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and path.resolve() == out):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _inside(path, out, wanted)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path, _known(Head.of(path), wanted)


def _known(head: Head, wanted: str) -> Source | None:
    """The importer for what was found in a folder, if it is the one that is wanted."""
    source = detect(head)
    return source if source is not None and wanted in ("auto", source.name) else None


def _importer(path: Path, wanted: str) -> Source:
    """The importer for a file that the user named."""
    head = Head.of(path)
    if head.tree is None and not head.text:
        raise PersonaError(f"{path} is empty")
    if wanted != "auto":
        return by_name(wanted)
    source = detect(head)
    if source is None:
        raise PersonaError(f"{path} is of no format that I know: {_seen(head)}", _formats())
    return source


def _seen(head: Head) -> str:
    if head.tree is not None:
        return f"it holds {', '.join(head.tree.names[:8]) or 'nothing'}"
    if not head.records:
        return f"it begins with {head.text[:40]!r}"
    return f"its first record has the keys {', '.join(list(head.records[0])[:8]) or '(none)'}"


def _formats() -> str:
    return f"known formats: {', '.join(source.name for source in SOURCES)}; name one with --source"


class Reader:
    """Reads all files, counting records, with a limit on how many may be unreadable."""

    def __init__(self, inputs: Inputs, config: CleanConfig) -> None:
        self._inputs, self._limit = inputs, config.max_bad_lines
        self._options = ReadOptions(config.groups, dict(pair.split("=", 1) for pair in config.columns))
        self._records, self._bad = 0, 0
        self._first: Bad | None = None

    def __iter__(self) -> Iterator[tuple[Source, Item]]:
        """Everything in every file, each with its importer. A chat must be read to its end before the next item.

        Raises:
            PersonaError: after the last file, when more than ``max_bad_lines`` of all records were bad.
        """
        for path, source in self._inputs.files:
            for item in source.read(path, self._options):
                if isinstance(item, RawChat):
                    yield source, RawChat(item.id, map(self._counted, item.messages))
                else:
                    yield source, self._counted(item)
        self._check()

    def _counted(self, item: _Counted) -> _Counted:
        self._records += 1
        if isinstance(item, Bad):
            self._bad, self._first = self._bad + 1, self._first or item
        return item

    def _check(self) -> None:
        first = self._first
        if first and self._bad > self._limit * self._records:
            raise PersonaError(
                f"{first.file}:{first.line}: {first.reason}; {self._bad} of {self._records} lines cannot be read, "
                f"and at most {self._limit:.0%} may be",
                "mend the file, name its format with --source, or allow more with --max-bad-lines",
            )
