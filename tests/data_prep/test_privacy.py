"""What is private in an export is in nothing that cleaning writes, unless the user wants it so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_prep.audit import audit
from mlx_persona.cli import main
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import Cleaned, chat

Run = Callable[..., Cleaned]
SECRETS = ("Quintus", "Mallory", "901820", "quintus@example.com", "sk-proj-4fK29dLqPz71XvbN3mWtY8Rc")
LINES = [
    "[01/02/2024, 09:00:00] Quintus Mallory: anna, my number is +49 30 901820",
    "[01/02/2024, 09:01:00] Anna Holm: thanks Quintus, I will call you on +49 30 901820 then",
    "[01/02/2024, 09:02:00] Quintus Mallory: or write to quintus@example.com",
    "[01/02/2024, 09:03:00] Anna Holm: will do, and here is the key: sk-proj-4fK29dLqPz71XvbN3mWtY8Rc",
    "[03/02/2024, 09:00:00] Anna Holm: did Mallory get the key?",
    "[03/02/2024, 09:01:00] Quintus Mallory: <Media omitted>",
    "[05/02/2024, 09:00:00] Quintus Mallory: quintus here, what do you think?",
    "[05/02/2024, 09:01:00] Anna Holm: I think that Quintus Mallory should sleep more",
]


@pytest.fixture
def whatsapp(tmp_path: Path) -> str:
    path = tmp_path / "WhatsApp Chat - Quintus Mallory.txt"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


def everything(out: Path) -> str:
    return "".join(path.read_text() for path in sorted(out.rglob("*")) if path.is_file())


def test_a_messenger_is_redacted_without_being_asked(whatsapp: str, run: Run) -> None:
    result = run(whatsapp, me=("Anna",), min_chars=0)
    written = everything(result.out)
    assert [secret for secret in SECRETS if secret.casefold() in written.casefold()] == []
    assert result.turns == [
        [
            ("user", "anna, my number is [PHONE_1]", True),
            ("assistant", "thanks [NAME_1], I will call you on [PHONE_1] then", True),
            ("user", "or write to [EMAIL_1]", True),
            ("assistant", "will do, and here is the key: [KEY_1]", True),
        ],
        [
            ("user", "[NAME_1] here, what do you think?", True),
            ("assistant", "I think that [NAME_1] should sleep more", True),
        ],
    ]
    assert result.report.redacted == {"PHONE": 2, "NAME": 4, "EMAIL": 1, "KEY": 1}
    assert result.report.examples["opener"] == ["did [NAME_1] get the key?"]
    assert [c.meta["id"] for c in result.conversations] == ["whatsapp-1#1", "whatsapp-1#3"]
    assert {c.meta["chat"] for c in result.conversations} == {"whatsapp-1"}


def test_the_audit_file_has_hashes_and_counts_that_add_up(whatsapp: str, run: Run) -> None:
    result = run(whatsapp, me=("Anna",), min_chars=0)
    rows = [json.loads(line) for line in (result.out / "redactions.jsonl").read_text().splitlines()]
    assert {row["type"] for row in rows} == set(result.report.redacted)
    for kind, count in result.report.redacted.items():
        assert sum(row["count"] for row in rows if row["type"] == kind) == count
    assert all(len(row["sha256"]) == 64 for row in rows)
    assert len({row["sha256"] for row in rows}) == len(rows)


def test_off_must_be_said_and_then_nothing_is_changed(whatsapp: str, run: Run) -> None:
    result = run(whatsapp, me=("Anna",), min_chars=0, redact="off")
    assert result.turns[0][1] == ("assistant", LINES[1].split("Holm: ")[1], True)
    assert result.report.redacted == {}
    assert not (result.out / "redactions.jsonl").exists()
    assert result.conversations[0].meta["chat"] == "Quintus Mallory"


def test_an_earlier_audit_file_goes_with_its_data(whatsapp: str, run: Run) -> None:
    out = run(whatsapp, me=("Anna",), min_chars=0).out
    assert (out / "redactions.jsonl").exists()
    run(whatsapp, me=("Anna",), min_chars=0, redact="off")
    assert not (out / "redactions.jsonl").exists()


def test_files_with_roles_are_redacted_on_request(jsonl: Callable[..., str], run: Run) -> None:
    record = chat(("user", "call +49 30 901820"), ("assistant", "I called +49 30 901820 twice"))
    assert run(jsonl(record)).turns[0][1][1] == "I called +49 30 901820 twice"
    assert run(jsonl(record), redact="on").turns[0][1][1] == "I called [PHONE_1] twice"


def test_a_missing_library_is_an_error_and_writes_nothing(
    whatsapp: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(PersonaError) as caught:
        run(whatsapp, me=("Anna",))
    assert caught.value.hint == "pip install 'mlx-persona[data]'"
    assert not (tmp_path / "out").exists()


def test_the_audit_shows_what_was_replaced_and_what_looks_left(whatsapp: str, run: Run) -> None:
    extra = Path(whatsapp)
    more = ["[06/02/2024, 09:00:00] Quintus Mallory: room 4711-22 x", "[06/02/2024, 09:01:00] Anna Holm: fine by me"]
    extra.write_text("\n".join([*LINES, *more]) + "\n")
    out = run(whatsapp, me=("Anna",), min_chars=0).out
    found = audit(out)
    assert found.counts == {"PHONE": 2, "NAME": 4, "EMAIL": 1, "KEY": 1}
    assert found.values == {"PHONE": 1, "NAME": 1, "EMAIL": 1, "KEY": 1}
    assert set(found.replaced) == set(found.counts)
    assert all(f"[{kind}_" in text for kind, texts in found.replaced.items() for text in texts)
    assert (found.left, found.suspects) == (["room 4711-22 x"], 1)
    done = CliRunner().invoke(main, ["clean", "--audit", "--out", str(out)])
    assert done.exit_code == 0
    assert "PHONE, for example" in done.stdout
    assert "room 4711-22 x" in done.stdout
    shown = json.loads(CliRunner().invoke(main, ["clean", "--audit", "--out", str(out), "--json"]).stdout)
    assert shown["counts"] == found.counts


def test_an_audit_needs_redacted_data(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="nothing there was redacted"):
        audit(tmp_path)


def test_cleaning_needs_something_to_read() -> None:
    done = CliRunner().invoke(main, ["clean"])
    assert done.exit_code == 2
    assert "RAW" in done.stderr
