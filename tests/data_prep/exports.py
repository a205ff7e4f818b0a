"""The same small talk as an export of every kind: twelve evenings, Bob asks and Anna answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from tests.data_prep.chatdb import EPOCH, ChatDb
from tests.data_prep.chats import zipped

ANNA, BOB = "Anna Holm", "Bob Berg"
WORDS = ("tea", "rain", "music", "cats", "snow", "bread", "books", "trains", "chess", "maps", "stars", "boats")
ASKS = (("do you like", "oh yes, I could talk for hours about"), ("why", "hard to say, it must be the smell of"))
DAY = 86_400
BEGIN = 1_600_000_000
# (sender, text, Unix seconds, conversation)
Said = tuple[str, str, int, int]


def small_talk() -> list[Said]:
    """Two questions and two answers an evening; the answers are Anna's."""
    out = []
    for i, word in enumerate(WORDS):
        for j, (ask, answer) in enumerate(ASKS):
            at = BEGIN + i * DAY + 60 * j
            out += [(BOB, f"{ask} {word}?", at, i), (ANNA, f"{answer} {word} " * (1 + i % 3), at + 20, i)]
    return [(who, text.strip(), at, i) for who, text, at, i in out]


def when(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def whatsapp(folder: Path) -> Path:
    lines = [f"[{when(at):%d/%m/%Y, %H:%M:%S}] {who}: {text}\n" for who, text, at, _ in small_talk()]
    return zipped(folder / "WhatsApp Chat - Bob.zip", {"_chat.txt": "".join(lines)})


def telegram(folder: Path) -> Path:
    messages = [
        {"id": n, "type": "message", "date": f"{when(at):%Y-%m-%dT%H:%M:%S}", "date_unixtime": str(at), "from": who}
        | {"from_id": f"user{len(who)}", "text": text, "text_entities": [{"type": "plain", "text": text}]}
        for n, (who, text, at, _) in enumerate(small_talk(), 1)
    ]
    return _json(folder / "result.json", {"name": BOB, "type": "personal_chat", "id": 7, "messages": messages})


def imessage(folder: Path) -> Path:
    path = folder / "chat.db"
    with ChatDb(path) as db:
        handle = db.handle("+15550100111")
        chat = db.chat(handle, identifier="+15550100111")
        for who, text, at, _ in small_talk():
            mine = who == ANNA
            db.message(chat, text, mine=int(mine), date=at - EPOCH, handle_id=0 if mine else handle)
    return path


def discord(folder: Path) -> Path:
    messages = [
        {"id": str(n), "type": "Default", "timestamp": when(at).isoformat(), "isPinned": False, "content": text}
        | {"author": {"id": str(len(who)), "name": who, "isBot": False}, "attachments": [], "embeds": []}
        for n, (who, text, at, _) in enumerate(small_talk(), 1)
    ]
    channel = {"id": "9", "type": "DirectTextChat", "name": BOB}
    guild = {"id": "0", "name": "Direct Messages"}
    return _json(folder / "direct.json", {"guild": guild, "channel": channel, "messages": messages})


def slack(folder: Path) -> Path:
    names = {"U0": ANNA, "U1": BOB}
    users = [{"id": user, "name": who.split()[0], "real_name": who, "profile": {}} for user, who in names.items()]
    channels = [{"id": "C1", "name": "tea", "members": list(names)}]
    files = {"users.json": json.dumps(users), "channels.json": json.dumps(channels)}
    days: dict[str, list[dict[str, str]]] = {}
    for who, text, at, _ in small_talk():
        user = "U0" if who == ANNA else "U1"
        days.setdefault(f"tea/{when(at):%Y-%m-%d}.json", []).append(
            {"type": "message", "user": user, "text": text, "ts": f"{at}.000100"}
        )
    return zipped(folder / "slack.zip", files | {name: json.dumps(day) for name, day in days.items()})


def meta(folder: Path) -> Path:
    messages = [
        {"sender_name": who, "timestamp_ms": at * 1000, "content": text, "is_geoblocked_for_viewer": False}
        for who, text, at, _ in reversed(small_talk())
    ]
    thread = {"participants": [{"name": BOB}, {"name": ANNA}], "messages": messages, "title": BOB}
    thread |= {"is_still_participant": True, "thread_path": "inbox/bobberg_1"}
    name = "your_facebook_activity/messages/inbox/bobberg_1/message_1.json"
    return zipped(folder / "facebook.zip", {name: json.dumps(thread)})


def mbox(folder: Path) -> Path:
    path = folder / "mail.mbox"
    parts, last = [], ("", -1)
    for n, (who, text, at, talk) in enumerate(small_talk()):
        mail = EmailMessage()
        mail["From"] = f"{who} <{who.split()[0].lower()}@example.org>"
        mail["Date"], mail["Message-ID"], mail["Subject"] = format_datetime(when(at)), f"<{n}@example.org>", "tea"
        if last[1] == talk:
            mail["In-Reply-To"] = mail["References"] = last[0]
        mail.set_content(text)
        parts.append(f"From - {when(at):%a %b %d %H:%M:%S %Y}\n{mail.as_string()}\n")
        last = (mail["Message-ID"], talk)
    path.write_text("".join(parts))
    return path


def agent(folder: Path) -> Path:
    lines = []
    for n, (who, text, at, _) in enumerate(small_talk()):
        role = "user" if who == ANNA else "assistant"
        content: object = text if who == ANNA else [{"type": "text", "text": text}]
        lines.append(
            {"type": role, "message": {"role": role, "content": content}, "uuid": str(n), "sessionId": "s", "cwd": "/x"}
            | {"timestamp": f"{when(at):%Y-%m-%dT%H:%M:%S}.000Z", "isSidechain": False, "version": "2.0.1"}
        )
    path = folder / "0f2c.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def table(folder: Path) -> Path:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["Date", "From", "Message"])
    writer.writerows([when(at).isoformat(), who, text] for who, text, at, _ in small_talk())
    path = folder / "chat.csv"
    path.write_text(out.getvalue(), newline="")
    return path


def chitchat(folder: Path) -> Path:
    talks: dict[str, dict[str, object]] = {}
    for who, text, at, talk in small_talk():
        message = {"text": text, "timestamp": when(at).isoformat(), "sender": who}
        bursts = talks.setdefault(str(talk), {"start": when(at).isoformat(), "messages": []})["messages"]
        bursts.append([message])  # type: ignore[attr-defined]
    return _json(folder / "dataset.json", talks)


def messages(folder: Path) -> Path:
    return _records(folder, lambda said: {"messages": [{"role": r, "content": t} for r, t in said]})


def sharegpt(folder: Path) -> Path:
    names = {"user": "human", "assistant": "gpt"}
    return _records(folder, lambda said: {"conversations": [{"from": names[r], "value": t} for r, t in said]})


def completion(folder: Path) -> Path:
    return _records(folder, lambda said: {"prompt": said[0][1], "completion": said[1][1]})


def _records(folder: Path, record: Callable[[list[tuple[str, str]]], object]) -> Path:
    talks: dict[int, list[tuple[str, str]]] = {}
    for who, text, _, talk in small_talk():
        talks.setdefault(talk, []).append(("assistant" if who == ANNA else "user", text))
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(record(said)) + "\n" for said in talks.values()))
    return path


def _json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1))
    return path


# --source -> writer, and what --me means there (None: the export knows).
EXPORTS: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "whatsapp": (whatsapp, ANNA),
    "telegram": (telegram, ANNA),
    "imessage": (imessage, None),
    "discord": (discord, ANNA),
    "slack": (slack, ANNA),
    "meta": (meta, ANNA),
    "mbox": (mbox, "anna@example.org"),
    "agent": (agent, None),
    "csv": (table, ANNA),
    "chitchat": (chitchat, ANNA),
    "messages": (messages, None),
    "sharegpt": (sharegpt, None),
    "completion": (completion, None),
}
