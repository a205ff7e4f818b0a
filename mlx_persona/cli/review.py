"""``review``."""

from __future__ import annotations

import sys

import click

from data_prep.review_loop import Card, review
from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import ReviewConfig
from mlx_persona.errors import PersonaError

_KEYS = "k keep  d drop  e edit  t tag  u undo  s skip  ? help  q quit"


def _review(config: ReviewConfig, as_json: bool) -> None:
    if not sys.stdin.isatty():
        raise PersonaError("review needs a terminal: it asks for keys", "run it in one, with nothing piped into it")
    summary = review(config, read_key=_Keys().read, show=_show, edit=_edit)
    if as_json:
        ui.json_out(summary.to_json())
        return
    done = f"{summary.kept} kept, {summary.dropped} dropped, {summary.edited} edited, {summary.tagged} tagged"
    ui.info(f"{summary.decided} decided: {done}; {summary.left} of the sample left")
    if summary.decided:
        ui.info("the next mlx-persona clean carries them out")
    ui.text_out(summary.file)


class _Keys:
    """Keys one by one, though a terminal hands over at once what was typed fast."""

    def __init__(self) -> None:
        self._typed = ""

    def read(self) -> str:
        """The next key; an arrow and its kind come as one."""
        if not self._typed:
            self._typed = click.getchar()
        if self._typed.startswith("\x1b"):
            pressed, self._typed = self._typed, ""
        else:
            pressed, self._typed = self._typed[:1], self._typed[1:]
        if pressed == "\x03":
            raise KeyboardInterrupt
        if pressed in ("", "\x04"):  # nothing at all: the terminal is gone
            raise EOFError
        return pressed


def _show(what: Card | str) -> None:
    if isinstance(what, Card):
        ui.card_out(what.title, what.context, what.reply, _KEYS)
    else:
        ui.notice(what)


def _edit(text: str) -> str | None:
    # An editor draws on stdout, which must hold nothing but the result when it goes elsewhere.
    if sys.stdout.isatty():
        try:
            return click.edit(text)
        except (click.ClickException, ValueError) as error:  # there is none, it failed, or it wrote no UTF-8
            ui.notice(error.format_message() if isinstance(error, click.ClickException) else str(error))
    ui.notice("type the new reply; an empty line ends it")
    lines: list[str] = []
    try:
        while line := ui.ask(""):
            lines.append(line)
        whole = "\n".join(lines)
        whole.encode("utf-8")
    except (EOFError, UnicodeError):
        return None
    return whole


commands: dict[str, click.Command] = {
    "review": command(
        "review", ReviewConfig, _review, "Keep, drop, edit or tag a sample of the cleaned replies, one by one."
    ),
}
