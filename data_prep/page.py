"""A cleaning's report as one page to read: ``page(report)`` makes ``report.html`` of what ``report.json`` holds.

The page needs nothing but itself: no script, no font, no picture from elsewhere, and its own policy forbids the
browser to load any. Whatever comes from the chats is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlx_persona.pages import POLICY, STYLE, printable

# Why a message is left out or not trained on, in a sentence.
REASONS = {
    "boilerplate": "The same long reply to several people: written by habit or by a machine.",
    "code": "Pasted code, a log or an error message, and hardly anything else (--keep-code trains on it).",
    "deleted": "The export only says that there was a message and that it was deleted.",
    "duplicate": "The whole conversation is there a second time, word for word.",
    "empty": "There is no text in it.",
    "forwarded": "Somebody else wrote it; it was only passed on.",
    "group": "It is from a group chat, and those were not asked for (--groups).",
    "language": "It is surely in another language than those that were asked for (--language).",
    "links": "Nothing but links (--keep-links trains on them).",
    "long": "Longer than the limit (--max-chars).",
    "marked": "The export itself says that it is not to be learned.",
    "media": "A photo, a voice message or a file, without words.",
    "meta": "It is about the tool and not part of the talk (--meta-pattern).",
    "near_duplicate": "Nearly the same as an earlier reply, which is learned once (--near-duplicates).",
    "no_trained_reply": "No reply in the whole conversation is fit to learn from.",
    "not_in_conversation": "The person did not write anything in this conversation.",
    "opener": "The person spoke first, so it answers nothing.",
    "outside_dates": "The conversation began before --since or after --until.",
    "over_cap": "Older than the latest replies that each contact may give (--max-per-contact).",
    "reaction": "A thumbs-up or another reaction, not a message.",
    "reviewed": "You dropped it in a review (mlx-persona review).",
    "service": "Written by the app and not by a person: calls, joins, renamed groups.",
    "short": "A reply under the length limit (--min-chars).",
    "system_prompt": "An instruction to an assistant, not a part of the talk (--system-prompt replaces it).",
    "tool_call": "What a program did or answered, not what anybody said.",
    "unanswered": "Nothing that is learned comes after it in its conversation.",
}
KEPT = "In the person's replies, which are trained on."
CONTEXT = "What others said, and replies set aside: the model reads it and is not trained on it."
QUARANTINED = "Lines that could not be read; they are in quarantine.jsonl, with the reason."

REDACTED = {
    "ADDRESS": "postal addresses",
    "CARD": "card numbers",
    "COORD": "coordinates",
    "EMAIL": "e-mail addresses",
    "IBAN": "bank accounts",
    "ID": "national ids",
    "IP": "IP addresses",
    "KEY": "passwords and keys",
    "NAME": "names of other people",
    "PHONE": "phone numbers",
    "URL": "links that hold secrets",
}
SPLITS = {
    "train": "the earliest: learned from",
    "valid": "the next: watched during training",
    "test": "the latest: held out for the report card",
}
LANGUAGES = {
    **{"af": "Afrikaans", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "et": "Estonian", "hr": "Croatian"},
    **{"lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "nn": "Nynorsk", "sk": "Slovak", "sl": "Slovene"},
    **{"sr": "Serbian", "sw": "Swahili", "ta": "Tamil", "tl": "Tagalog", "ur": "Urdu"},
    **{"ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish"},
    **{"fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian"},
    **{"id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nb": "Norwegian", "nl": "Dutch"},
    **{"pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "th": "Thai"},
    **{"tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese"},
    "unsure": "too short or too mixed to tell",
}
MAX_BARS = 120

_COLOURS = 6
_STYLE = """
.stack { display: flex; height: 1.75rem; border-radius: .4rem; overflow: hidden; }
.kept { background: var(--kept); } .context { background: var(--context); } .bad { background: var(--bad); }
.d0 { background: var(--d0); } .d1 { background: var(--d1); } .d2 { background: var(--d2); }
.d3 { background: var(--d3); } .d4 { background: var(--d4); } .d5 { background: var(--d5); }
.bar { width: 45%; } .bar span { display: block; height: 1rem; border-radius: .2rem; background: var(--bar); }
svg { display: block; width: 100%; height: 5rem; fill: var(--bar); }
.ends { display: flex; justify-content: space-between; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The whole HTML page.

    Args:
        report: what ``report.json`` holds.
    """
    stats = report["stats"]
    sections = [
        ("Where the messages went", _fates(report)),
        ("Replies that are not trained on", _aside(report)),
        ("Personal data", _redacted(report["redacted"])),
        ("How long the replies are", _lengths(stats)),
        ("When", _time(stats["time"])),
        ("With whom", _contacts(stats["contacts"])),
        ("Languages", _languages(stats["languages"])),
        ("What kinds of replies", _tags(stats["tags"])),
        ("For training and for testing", _splits(report)),
        ("Notes", _list([*report["notes"], *stats["notes"]])),
    ]
    body = "".join(f"<section><h2>{title}</h2>{text}</section>\n" for title, text in sections if text)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Cleaned chats of {_who(report)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n"
        f"<body>\n{_headline(report)}\n{body}</body>\n</html>\n"
    )


def _headline(report: Mapping[str, Any]) -> str:
    time = report["stats"]["time"]
    facts = [
        (_number(_total(report, "conversations")), "conversations"),
        (_number(_total(report, "trained_replies")), "replies to learn from"),
        (_number(report["read"]), "messages read"),
    ]
    if time["first"]:
        days = dict.fromkeys((time["first"], time["last"]))
        facts.append((" to ".join(days), "first and last day"))
    cells = "".join(f"<div><b>{_text(value)}</b>{name}</div>" for value, name in facts)
    files = ", ".join(f"{_number(n)} {_text(name)}" for name, n in report["sources"].items())
    return (
        f"<h1>Cleaned chats of <bdi>{_who(report)}</bdi></h1>\n"
        f'<div class="facts">{cells}</div>\n'
        f'<p class="soft">Files read: {files or "none"}; in {report["seconds"]:.1f} seconds. '
        f"The conversations are in <code>{_text(report['out'])}</code>.</p>"
    )


def _fates(report: Mapping[str, Any]) -> str:
    """Every message in one bar and one table."""
    read = report["read"]
    rows = [("kept", "kept", report["kept"], KEPT), ("context", "context", report["context"], CONTEXT)]
    for place, (reason, n) in enumerate(report["dropped"].items()):
        rows.append((f"d{place % _COLOURS}", reason, n, REASONS.get(reason, "")))
    rows.append(("bad", "quarantined", report["quarantined"], QUARANTINED))
    parts = "".join(
        f'<span class="{colour}" style="flex:{n} 0 0" title="{_text(name)}: {_number(n)}"></span>'
        for colour, name, n, _ in rows
        if n
    )
    cells = [
        (
            f'<span class="swatch {colour}"></span>{_reason(name, said)}{_examples(report["examples"].get(name, []))}',
            _number(n),
            _percent(n, read),
        )
        for colour, name, n, said in rows
    ]
    table = _table(("messages", "count", "share"), [*cells, ("read", _number(read), _percent(read, read))])
    label = f"{_number(read)} messages: kept {_percent(report['kept'], read)}, see the table"
    return f'<div class="stack" role="img" aria-label="{label}">{parts}</div>{table}'


def _aside(report: Mapping[str, Any]) -> str:
    """What the length limit costs, and all reasons why replies stay as context."""
    person = report["person"]
    share = person["short_share"]
    cost = (
        f"The length limit drops {_percent(share, 1)} of the {_number(person['replies'])} replies; "
        "<code>--min-chars 0</code> keeps all."
        if share
        else f"None of the {_number(person['replies'])} replies is under the length limit."
    )
    rows = [(_reason(name, REASONS.get(name, "")), _number(n)) for name, n in report["set_aside"].items()]
    stay = "<p>These messages stay in their conversations, for the model to read:</p>"
    return f"<p>{cost}</p>" + (stay + _table(("reason", "messages"), rows) if rows else "")


def _redacted(counts: Mapping[str, int]) -> str:
    if not counts:
        return "<p>Nothing was replaced: there was nothing to find, or <code>--redact</code> was off.</p>"
    rows = [(_reason(kind, REDACTED.get(kind, "")), _number(n)) for kind, n in counts.items()]
    return "<p>Became placeholders such as <code>[NAME_3]</code>:</p>" + _table(("what", "times"), rows)


def _lengths(stats: Mapping[str, Any]) -> str:
    keys = ("min", "p10", "median", "mean", "p90", "max")
    rows = [
        (name, *(f"{stats[key][k]:,}" for k in keys))
        for name, key in (("characters", "chars"), ("words", "words"), ("tokens", "tokens"), ("turns", "turns"))
        if "min" in stats[key]
    ]
    table = _table(("", "least", "10 %", "median", "mean", "90 %", "most"), rows)
    charts = "".join(
        f"<p>Replies by their {name}:</p>" + _bars([(_range(b), b["count"]) for b in stats[key]["histogram"]])
        for name, key in (("characters", "chars"), ("words (between spaces)", "words"), ("tokens", "tokens"))
        if stats[key]
    )
    lines = f"<p>{_percent(stats['several_lines'], 1)} of the replies have several lines, mostly messages in a row.</p>"
    return (
        f'{table}<p class="soft">Characters, words and tokens of a reply; turns of a conversation.</p>{lines}{charts}'
    )


def _range(of: Mapping[str, Any]) -> str:
    low, top = of["from"], of["to"]
    if top is None:
        return f"{low:,} or more"
    return f"{low:,}" if low == top else f"{low:,} to {top:,}"


def _time(time: Mapping[str, Any]) -> str:
    """Conversations by month as a row of bars."""
    undated = f"<p>Conversations without a date: {_number(time['undated'])}.</p>" if time["undated"] else ""
    if not time["months"]:
        return undated
    bars = _months(time["months"])
    most = max(n for _, n in bars)
    rects = "".join(
        f'<rect x="{i}" y="{40 - 40 * n / most:.2f}" width="0.8" height="{40 * n / most:.2f}">'
        f"<title>{name}: {_number(n)}</title></rect>"
        for i, (name, n) in enumerate(bars)
        if n
    )
    label = f"conversations from {bars[0][0]} on, at most {_number(most)} a bar"
    return (
        f"<p>Conversations over time; the highest bar is {_number(most)}.</p>"
        f'<svg viewBox="0 0 {len(bars)} 40" preserveAspectRatio="none" role="img" aria-label="{label}">{rects}</svg>'
        f'<p class="ends soft"><span>{_text(time["first"])}</span><span>{_text(time["last"])}</span></p>{undated}'
    )


def _months(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Every month from the first to the last, also the empty ones; several in one where there are too many."""
    numbers = {12 * int(month[:4]) + int(month[5:]) - 1: n for month, n in counts.items()}
    first, count = min(numbers), max(numbers) - min(numbers) + 1
    width = -(-count // MAX_BARS)
    bars = [0] * -(-count // width)
    for month, n in numbers.items():
        bars[(month - first) // width] += n
    starts = [divmod(first + i * width, 12) for i in range(len(bars))]
    more = f" and {width - 1} more" if width > 1 else ""
    return [(f"{year:04}-{month + 1:02}{more}", n) for (year, month), n in zip(starts, bars, strict=True)]


def _contacts(contacts: Mapping[str, Any]) -> str:
    if not contacts["named"]:
        return "<p>The export does not say which conversations are with the same people.</p>"
    return (
        f"<p>Contacts (people or groups): {_number(contacts['count'])}. "
        f"The largest gives {_percent(contacts['largest'], 1)} of the replies.</p>"
    )


def _languages(shares: Mapping[str, float]) -> str:
    if not shares:
        return ""
    rows = [(_text(LANGUAGES.get(code, code)), _percent(share, 1)) for code, share in shares.items()]
    return _table(("in a sample of the replies", "share"), rows)


def _tags(tags: Mapping[str, Any]) -> str:
    """The mix of the replies against the paper's, tiers, and how many sound performed."""
    if not tags:
        return ""
    kinds = [(*_row(name, sizes), _percent(sizes["target"], 1)) for name, sizes in tags["buckets"].items()]
    tiers = [_row(name, sizes) for name, sizes in tags["tiers"].items()]
    performed = _row("sounds performed", tags["performative"])
    return (
        _table(("kind, told by simple rules", "replies", "share", "paper's"), kinds)
        + _table(("how often to train on it", "replies", "share"), tiers)
        + _table(("overdone", "replies", "share"), [performed])
    )


def _row(name: str, sizes: Mapping[str, Any]) -> tuple[str, str, str]:
    return _text(name), _number(sizes["replies"]), _percent(sizes["share"], 1)


def _splits(report: Mapping[str, Any]) -> str:
    keys = ("conversations", "messages", "replies", "trained_replies")
    rows = [
        (_reason(name, SPLITS.get(name, "")), *(_number(sizes[key]) for key in keys))
        for name, sizes in report["splits"].items()
    ]
    leaked = report["leaked"]
    if leaked is None:
        said = "Nobody looked whether held-out replies are nearly the same as ones that are trained on."
    elif leaked:
        said = f"Held-out replies that are nearly the same as one that is trained on: {_number(leaked)}."
    else:
        said = "No held-out reply is nearly the same as one that is trained on."
    return _table(("file", "conver&shy;sations", "turns", "replies", "trained on"), rows) + f"<p>{said}</p>"


def _examples(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    items = "".join(f'<li dir="auto">{_text(text) if text.strip() else "(nothing)"}</li>' for text in texts)
    return f"<details><summary>examples</summary><ul>{items}</ul></details>"


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in texts)}</ul>" if texts else ""


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    """Names with counts, and a bar for each."""
    most, total = max(n for _, n in rows), sum(n for _, n in rows)
    cells = "".join(
        f'<tr><td>{name}</td><td class="bar"><span style="width:{100 * n / max(most, 1):.1f}%"></span></td>'
        f'<td class="n">{_number(n)}</td><td class="n">{_percent(n, total)}</td></tr>'
        for name, n in rows
    )
    return f"<table>{cells}</table>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; the first column is text and the others are numbers."""
    kinds = ["", *[' class="n"'] * (len(head) - 1)]
    top = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = ("".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _reason(name: str, said: str) -> str:
    return f"{_text(name)}<small>{_text(said)}</small>" if said else _text(name)


def _who(report: Mapping[str, Any]) -> str:
    return _text(", ".join(report["person"]["names"]) or "the person")


def _total(report: Mapping[str, Any], key: str) -> int:
    return sum(sizes[key] for sizes in report["splits"].values())


def _number(n: int) -> str:
    return f"{n:,}"


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if share >= 0.05 or not part else "under 0.1 %"


def _text(value: str) -> str:
    """Text from anywhere, safe in elements and in attributes."""
    return html.escape(printable(value))
