"""``clean`` on every export in ``fixtures``, then ``sft``: with the options that it needs, and no other step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_persona.cleaning import clean
from mlx_persona.cli import main
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError
from tests.data_prep.chatdb import NORA, SCHEMAS, ChatDb, T
from tests.data_prep.chats import zipped
from tests.toy import info, sft_config

FIXTURES = Path(__file__).parent / "fixtures"
DAY = ("--gap-minutes", "1440")
ME = "--me"

# What to clean, whose replies those are, and what else must be said.
CASES: dict[str, tuple[str, ...]] = {
    "whatsapp/android_en_in.txt": (ME, "+91 90000 00001"),
    "whatsapp/android_es.txt": (ME, "Inés"),
    "whatsapp/android_ko.txt": (ME, "도윤", "--max-bad-lines", "0.5"),
    "whatsapp/android_nl.txt": (ME, "Saar", *DAY),
    "whatsapp/android_pt_br.txt": (ME, "Caio"),
    "whatsapp/ios_de.txt": (ME, "Tilda", *DAY),
    "whatsapp/ios_en_us_group.txt": (ME, "Mara Quill"),
    "whatsapp/ios_fr.txt": (ME, "Noé", *DAY),
    "whatsapp/ios_it_old.txt": (ME, "Pia", *DAY),
    "telegram/account": (ME, "Anna Holm"),
    "telegram/chat": (ME, "Anna Holm"),
    "telegram/chat_2019": (ME, "Anna Holm"),
    "discord/direct.json": (ME, "mira.vane"),
    "discord/guild.json": (ME, "mira.vane"),
    "discord/old.json": (ME, "Tobi"),
    "slack": (ME, "Tobi Kessel"),
    "meta/encrypted": (ME, "Anna Holm"),
    "meta/facebook": (ME, "Anna Holm"),
    "meta/facebook_2018": (ME, "Bob"),
    "meta/instagram": (ME, "anna"),
    "mbox/All mail Including Spam and Trash.mbox": (ME, "lena.beispiel@example.org"),
    "mbox/apple": (ME, "ana@example.com"),
    "mbox/thunderbird": (ME, "sam@example.com"),
    "agent/claude-1.0.jsonl": (),
    "agent/claude-2.1.jsonl": (),
    "agent/codex-0.144.jsonl": (),
    "agent/codex-bare.jsonl": (),
    "agent/plain.jsonl": (),
    "csv/channels.csv": (ME, "Tom Berg"),
    "csv/log.tsv": (ME, "ada"),
    "csv/tabelle.csv": (
        *(ME, "Ayşe", "--source", "csv", "--gap-minutes", "100000"),
        *("--column", "text=Nachricht", "--column", "sender=Absender", "--column", "time=Datum"),
    ),
}
# One agent told another what to do: nobody's words.
NOBODYS = "agent/codex-subagent.jsonl"


def discord_package(path: Path) -> Path:
    """Discord's own package: what one person wrote, and not what it answers."""
    rows = [{"ID": i, "Timestamp": f"2024-05-01 10:00:0{i}", "Contents": f"so {i}", "Attachments": ""} for i in (2, 1)]
    files = {"account/user.json": '{"id": "2", "username": "mira.vane"}', "messages/index.json": '{"81384788": "tobi"}'}
    return zipped(path / "package.zip", files | {"messages/c81384788765712384/messages.json": json.dumps(rows)})


def messages_app(version: str, path: Path) -> Path:
    """A database of Messages as this version of macOS makes one."""
    with ChatDb(path / "chat.db", version) as db:
        chat = db.chat(db.handle(NORA), identifier=NORA)
        for n, text in enumerate(("are you there?", "on my way, five minutes", "hurry up", "yes yes, I run")):
            db.message(chat, text, mine=n % 2, date=T + 10 * n, handle_id=1 - n % 2)
    return path / "chat.db"


def slack_zip(path: Path) -> Path:
    """The Slack fixture as Slack gives it."""
    folder = FIXTURES / "slack"
    files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.json"))}
    return zipped(path / "slack.zip", files)


# What is made here, with its options.
MADE: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    **{f"imessage/{v}": (lambda path, v=v: messages_app(v, path), ()) for v in SCHEMAS},
    "slack.zip": (slack_zip, (ME, "Tobi Kessel")),
}


def test_every_fixture_is_cleaned_here() -> None:
    known = [FIXTURES / name for name in (*CASES, NOBODYS, "redact")]
    files = [path for path in FIXTURES.rglob("*") if path.is_file()]
    assert [f for f in files if not any(f == k or k in f.parents for k in known)] == []


@pytest.mark.parametrize("name", [*CASES, *MADE])
def test_a_fixture_is_cleaned_and_learned(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_persona.stages.sft import sft

    monkeypatch.chdir(tmp_path)
    path, options = (FIXTURES / name, CASES[name]) if name in CASES else (MADE[name][0](tmp_path), MADE[name][1])
    asked = ["--min-chars", "0", "--near-duplicates", "0", "--model", str(model), "--json"]
    done = CliRunner().invoke(main, ["clean", str(path), *options, *asked])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    places = (report["kept"], report["context"], *report["dropped"].values(), report["quarantined"])
    assert report["read"] == sum(places)
    assert list(report["sources"]) == [name.replace(".", "/").split("/")[0]]
    learned = report["stats"]
    assert learned["replies"] == sum(b["count"] for b in learned["tokens"]["histogram"]) > 0
    result = sft(sft_config(model, Path("data/clean"), "run", updates=2, eval_every=2, max_seq_length=512))
    held_out = report["splits"]["valid"]["trained_replies"] > 0
    assert info(result.run)["held_out"] == held_out
    assert held_out or result.eval_loss < result.base_eval_loss


@pytest.mark.parametrize(("make", "me"), [(lambda _: FIXTURES / NOBODYS, ()), (discord_package, ("mira.vane",))])
def test_an_export_without_an_answer_says_that_nothing_is_left(
    make: Callable[[Path], Path], me: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="no conversation is left of 2 messages"):
        clean(CleanConfig(raw=(str(make(tmp_path)),), me=me, min_chars=0))
    assert not Path("data").exists()
