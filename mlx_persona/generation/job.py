"""A job that writes many replies into a folder: each is kept as it comes, and the same command continues after a stop.

The folder holds ``partial.jsonl`` (the replies so far) while the job runs, and ``report.json`` once it is
done. Both begin with a key, a hash of everything that the replies depend on: another key, another job.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mlx_persona import ui
from mlx_persona.errors import Interrupted
from mlx_persona.files import write_text
from mlx_persona.generation.engine import OnReply, Reply
from mlx_persona.schema import dump_line

PARTIAL, REPORT = "partial.jsonl", "report.json"


def key_of(depends: Any) -> str:
    """The job's key: SHA-256 of everything that its replies and files depend on (plain JSON values)."""
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


def finished(out: Path, key: str, names: Iterable[str]) -> dict[str, Any] | None:
    """The report of an earlier job with the same key, if the files ``names`` are still there."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("key") != key or not all((out / name).is_file() for name in names):
        return None
    return report


def finish(out: Path, key: str, report: dict[str, Any]) -> None:
    """Write the report, once all other files are whole; the kept replies are no longer needed."""
    write_text(out / REPORT, json.dumps({"key": key, **report}, indent=2, ensure_ascii=False) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)


def waiting(folders: Iterable[Path], key: str) -> Path | None:
    """The first of these folders in which a job with this key was interrupted."""
    return next((folder for folder in sorted(folders) if _read(folder / PARTIAL, key) is not None), None)


class Kept:
    """The replies of a job by number, ``written`` so far, and the file that they are kept in."""

    def __init__(self, written: dict[int, Reply], total: int, file: TextIO, bar: ui.Bar) -> None:
        self.written = written
        self._total, self._file, self._bar = total, file, bar
        self._before, self._began = len(written), time.perf_counter()

    @property
    def whole(self) -> bool:
        """Whether nothing is left to write."""
        return len(self.written) == self._total

    def note(self, text: str) -> None:
        """Show behind the bar what is being done between replies."""
        self._bar.advance(0, text)

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of ``numbers`` that are not written yet, in order."""
        return [n for n in numbers if n not in self.written]

    def keeper(self, numbers: Sequence[int]) -> OnReply:
        """What keeps the engine's replies: its reply ``i`` is the job's number ``numbers[i]``."""
        if len(self.written) == self._before:
            self._began = time.perf_counter()  # loading the model is no writing

        def keep(index: int, reply: Reply) -> None:
            self.written[numbers[index]] = reply
            self._file.write(_line(numbers[index], reply))
            self._file.flush()
            rate = (len(self.written) - self._before) / (time.perf_counter() - self._began)
            self._bar.advance(1, f"{rate:.1f} replies/s")

        return keep


@contextmanager
def keeping(out: Path, key: str, total: int, title: str) -> Iterator[Kept]:
    """The replies 0 to ``total`` - 1 of a job: those kept from before, and a place for the others.

    Raises:
        Interrupted: after KeyboardInterrupt in the block; no reply that is whole is lost.
    """
    path = out / PARTIAL
    written = {n: reply for n, reply in (_read(path, key) or {}).items() if 0 <= n < total}
    write_text(path, dump_line({"key": key}) + "".join(_line(n, r) for n, r in written.items()))
    if written:
        ui.info(f"continuing: {len(written)} of {total} replies were written before")
    try:
        with path.open("a", encoding="utf-8") as file, ui.progress(title, total, len(written)) as bar:
            yield Kept(written, total, file, bar)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(written)} of {total} replies are kept", "the same command continues from there"
        ) from None


def _line(number: int, reply: Reply) -> str:
    return dump_line({"reply": number, **reply._asdict()})


def _read(path: Path, key: str) -> dict[int, Reply] | None:
    """Replies kept from an interrupted job with this key, or None; a last line that was cut off is left out."""
    written: dict[int, Reply] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    if lines[0] != dump_line({"key": key}).strip():
        return None
    for line in lines[1:]:
        try:
            value = json.loads(line)
            written[int(value["reply"])] = Reply(str(value["text"]), bool(value["cut"]))
        except (ValueError, KeyError, TypeError):
            break
    return written
