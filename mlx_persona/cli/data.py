"""``clean``, ``data show`` and ``canaries``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from data_prep.audit import Audit, audit
from data_prep.pipeline import list_people
from data_prep.report import CleanReport
from mlx_persona import ui
from mlx_persona.cleaning import clean
from mlx_persona.cli.options import command
from mlx_persona.config import CanariesConfig, CleanConfig, ShowConfig


def _clean(config: CleanConfig, as_json: bool, list_only: bool, look: bool) -> None:
    if look:
        _audit(audit(Path(config.out)), as_json)
        return
    if not config.raw:
        raise click.UsageError("Missing argument 'RAW...'.")
    if list_only:
        _list_people(config, as_json)
        return
    report = clean(config)
    if as_json:
        ui.json_out(report.to_json())
        return
    _print_report(report)


def _audit(found: Audit, as_json: bool) -> None:
    if as_json:
        ui.json_out(found.to_json())
        return
    rows = [[kind, str(found.counts[kind]), str(found.values[kind])] for kind in sorted(found.counts)]
    ui.table_out("Redacted", ["type", "replaced", "different"], rows)
    for kind, texts in found.replaced.items():
        ui.table_out(f"{kind}, for example", [""], [[text] for text in texts])
    if found.left:
        title = f"Left as it is, though it looks like personal data: {found.suspects} messages, for example"
        ui.table_out(title, [""], [[text] for text in found.left])


def _list_people(config: CleanConfig, as_json: bool) -> None:
    people = list_people(config)
    if as_json:
        ui.json_out({"people": [{"name": name, "messages": count} for name, count in people]})
    elif people:
        ui.table_out("Who speaks", ["name", "messages"], [[name, str(count)] for name, count in people])
    else:
        ui.text_out("no names in this export: its replies are the assistant's turns, and --me is not needed")


def _print_report(report: CleanReport) -> None:
    shown = report.to_json()
    rows = [["read", str(shown["read"])], ["kept (trained on)", str(shown["kept"])], ["context", str(shown["context"])]]
    rows += [[f"dropped: {reason}", str(count)] for reason, count in sorted(shown["dropped"].items())]
    rows += [["quarantined", str(shown["quarantined"])]]
    ui.table_out("Messages", ["fate", "count"], rows)
    columns = ["split", "conversations", "messages", "replies", "trained on"]
    keys = ("conversations", "messages", "replies", "trained_replies")
    splits = [[name, *(str(part[key]) for key in keys)] for name, part in shown["splits"].items()]
    ui.table_out("Splits", columns, splits)
    for note in shown["notes"]:
        ui.info(note)
    person = shown["person"]
    if person.get("short_share"):
        ui.info(f"{person['short_share']:.1%} of the replies are under the length limit (--min-chars 0 keeps all)")
    for name, count in (("quarantine.jsonl", shown["quarantined"]), ("report.json", 1), ("report.html", 1)):
        if count:
            ui.text_out(str(Path(shown["out"]) / name))


def _show(config: ShowConfig, as_json: bool) -> None:
    from mlx_persona.stages.show import show_conversation

    shown = show_conversation(config)
    if as_json:
        ui.json_out(shown.to_json())
        return
    for index, row in enumerate(shown.rows):
        if index:
            ui.text_out("-" * 40)
        ui.trained_tokens_out(row)
    ui.info(shown.summary)


def _canaries(config: CanariesConfig, as_json: bool) -> None:
    from mlx_persona.stages.canaries import plant_canaries

    planted = plant_canaries(config)
    if as_json:
        ui.json_out({"path": config.out, "n": len(planted)})
        return
    ui.info(f"next: mlx-persona sft --extra {config.out}, then mlx-persona eval --canaries {config.out}")
    ui.text_out(config.out)


_RAW = click.Argument(["raw"], nargs=-1, metavar="RAW...")
_LIST = click.Option(["list_only", "--list-people"], is_flag=True, help="show who speaks, with counts, and stop")
_AUDIT = click.Option(["look", "--audit"], is_flag=True, help="show samples of what was redacted last, and stop")

_data = click.Group("data", help="Look at the data that training will see.")
_data.add_command(
    command("show", ShowConfig, _show, "Print a conversation as the model sees it, trained tokens coloured.")
)

commands: dict[str, click.Command] = {
    "clean": command(
        "clean",
        CleanConfig,
        _clean,
        "Turn raw exports (files or folders) into clean conversations in data/clean.",
        [_RAW, _LIST, _AUDIT],
    ),
    "data": _data,
    "canaries": command(
        "canaries", CanariesConfig, _canaries, "Make up secrets to train on, for which eval asks the trained model."
    ),
}
__all__: list[Any] = ["commands"]
