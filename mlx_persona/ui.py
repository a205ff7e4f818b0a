"""The console: the only module that imports rich. Logs and progress go to stderr, data to stdout.

``NO_COLOR`` and non-terminals give plain text; ``-q`` silences everything but errors. Of several processes
that train together only rank 0 speaks; the others' errors are shown with their rank.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class _State:
    quiet = False
    brief = False
    rank = 0
    live: Console | None = None


def set_quiet(quiet: bool) -> None:
    """Silence logs and progress (errors still show)."""
    _State.quiet = quiet


def set_rank(rank: int) -> None:
    """Which of several processes this is: all but rank 0 are silent, on stdout too, except for their errors."""
    _State.rank = rank


def _silent() -> bool:
    return _State.quiet or _State.rank > 0


def _err() -> Console:
    # Made anew, so that a redirected stderr (tests, notebooks) is respected; while a bar is shown, its own
    # console writes above it. No emoji: rich takes the 100 of "train.jsonl:100:" for one.
    return _State.live or Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def brief() -> Iterator[None]:
    """Leave out the lines of progress in the block; bars and warnings stay: one of many runs is told of in a line."""
    before, _State.brief = _State.brief, True
    try:
        yield
    finally:
        _State.brief = before


def info(message: str) -> None:
    """One line of progress, on stderr."""
    if not (_silent() or _State.brief):
        _err().print(escape(message))


def warn(message: str) -> None:
    """Something the user should know, on stderr."""
    if not _silent():
        _err().print(f"[yellow]warning:[/yellow] {escape(message)}")


def error(message: str, hint: str | None = None) -> None:
    """An error and its way out, on stderr; shown even when quiet. One line each."""
    console = _err()
    who = f"rank {_State.rank}: " if _State.rank else ""
    console.print(f"[bold red]error:[/bold red] {who}{escape(' '.join(message.split()))}")
    if hint:
        console.print(f"[cyan]hint:[/cyan] {escape(' '.join(hint.split()))}")


def notice(message: str, hint: str | None = None) -> None:
    """How a command ended when it was stopped, or its part of a dialogue, on stderr; shown even when quiet."""
    if _State.rank:
        return
    _err().print(escape(message))
    if hint:
        _err().print(f"[cyan]hint:[/cyan] {escape(hint)}")


def json_out(value: Any) -> None:
    """The result as one JSON object on stdout."""
    if not _State.rank:
        print(json.dumps(value, ensure_ascii=False))


def text_out(text: str, end: str = "\n") -> None:
    """Data on stdout, unadorned and unbuffered (replies stream)."""
    if not _State.rank:
        sys.stdout.write(text + end)
        sys.stdout.flush()


def table_out(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; the first column is left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 120
    Console(highlight=False, emoji=False, width=width).print(table)


def trained_tokens_out(pieces: Iterable[tuple[str, bool]]) -> None:
    """Text on stdout with the trained pieces coloured; without colour they stand in «»."""
    console = _out()
    plain = not console.is_terminal or console.no_color
    text = Text()
    for trained, group in itertools.groupby(pieces, key=lambda piece: piece[1]):
        run = visible("".join(piece for piece, _ in group))
        if plain:
            text.append(f"«{run}»" if trained else run)
        else:
            text.append(run, style="bold green" if trained else "dim")
    console.print(text)


# Everything that a terminal obeys and does not show: C0 and C1 but tab and newline, and orders to write backwards.
_UNSEEN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
_UNSEEN |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def visible(text: str) -> str:
    """The text with control characters spelled out (``\\x1b``): what others wrote must not command the terminal."""
    return text.translate(_UNSEEN)


def card_out(title: str, context: Iterable[tuple[str, str]], reply: str, foot: str) -> None:
    """A reply to decide about with ``(who, text)`` of what was said before, on stderr; shown even when quiet."""
    console = _err()
    console.rule(Text(title), align="left", style="dim")
    for who, text in context:
        console.print(Text(_indented(who, text), style="dim"))
    console.print(Text(_indented(">", reply), style="bold green"))
    console.print(Text(foot, style="cyan"))


def _indented(head: str, text: str) -> str:
    return f"{head:<6} " + visible(text).replace("\n", "\n" + 7 * " ")


@dataclass
class Bar:
    """A progress bar with a line of figures behind it."""

    _progress: Progress | None
    _task: TaskID | None

    def advance(self, step: int = 1, note: str = "") -> None:
        """Move on by ``step`` and show ``note`` (loss, tokens/s, memory)."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=step, note=escape(note))


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar with ETA on stderr; nothing when quiet or not a terminal."""
    console = _err()
    if _silent() or not console.is_terminal:
        yield Bar(None, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        _State.live = console
        try:
            yield Bar(bars, bars.add_task(title, total=total, completed=done, note=""))
        finally:
            _State.live = None


def ask(prompt: str) -> str:
    """One line typed by the user; raises EOFError at the end of input."""
    return input(prompt)
