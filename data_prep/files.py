"""Which files to read, and with which importer; and reading them all, with a limit on unreadable lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import SOURCES, Bad, Head, RawConversation, Source, by_name, detect
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError

SUFFIXES = (".jsonl", ".json")
QUARANTINE = "quarantine.jsonl"
# What a cleaning writes, the report last.
OUTPUTS = ("train.jsonl", "valid.jsonl", "test.jsonl", QUARANTINE, "report.json")


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
    """The files that ``config.raw`` names: files as given, folders searched for .jsonl and .json, sorted.

    A file that was named must be readable; one that was only found in a folder is skipped when it is
    empty or of no known format.

    Raises:
        PersonaError: nothing named, no such path, an empty or unknown file, nothing to read in a folder.
    """
    if not config.raw:
        raise PersonaError("name at least one file or folder to read")
    files: dict[Path, Source] = {}
    skipped: list[str] = []
    for raw in config.raw:
        path = Path(raw)
        if path.is_dir():
            found = [(p, _importer(p, config.source, named=False)) for p in _inside(path, Path(config.out))]
            if not any(source for _, source in found):
                raise PersonaError(f"{path} has no chats that I know in {' or '.join(SUFFIXES)} files", _formats())
            skipped += [str(p) for p, source in found if source is None]
            files |= {p: source for p, source in found if source is not None}
        elif path.exists():
            source = _importer(path, config.source, named=True)
            files |= {path: source} if source else {}
        else:
            raise PersonaError(f"no such file or folder: {path}")
    out = Path(config.out).resolve()
    for path in files:
        if path.resolve().parent == out and path.name in OUTPUTS:
            raise PersonaError(f"{path} would be overwritten", "write elsewhere with --out")
    return Inputs(tuple(files.items()), tuple(skipped))


def _inside(folder: Path, out: Path) -> list[Path]:
    """The chat files below a folder, without hidden ones and without what an earlier run wrote."""
    written = out.resolve()
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and (written == folder.resolve() or written not in p.resolve().parents)
    )


def _importer(path: Path, wanted: str, *, named: bool) -> Source | None:
    head = Head.of(path)
    if not head.text:
        if named:
            raise PersonaError(f"{path} is empty")
        return None
    if wanted != "auto":
        return by_name(wanted)
    source = detect(head)
    if source is None and (named or not head.records):
        raise PersonaError(f"{path} is of no format that I know: {_seen(head)}", _formats())
    return source


def _seen(head: Head) -> str:
    if not head.records:
        return "it does not begin with a JSON object"
    return f"its first record has the keys {', '.join(list(head.records[0])[:8]) or '(none)'}"


def _formats() -> str:
    return f"known formats: {', '.join(source.name for source in SOURCES)}; name one with --source"


def read_all(inputs: Inputs, max_bad_lines: float) -> Iterator[tuple[Source, RawConversation | Bad]]:
    """Every conversation and every bad line of all files, each with its importer.

    Raises:
        PersonaError: after the last file, when more than ``max_bad_lines`` of all records were bad.
    """
    records, bad, first = 0, 0, None
    for path, source in inputs.files:
        for item in source.read(path):
            records += 1
            if isinstance(item, Bad):
                bad, first = bad + 1, first or item
            yield source, item
    if first and bad > max_bad_lines * records:
        raise PersonaError(
            f"{first.file}:{first.line}: {first.reason}; {bad} of {records} lines cannot be read, "
            f"and at most {max_bad_lines:.0%} may be",
            "mend the file, name its format with --source, or allow more with --max-bad-lines",
        )
