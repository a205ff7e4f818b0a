"""KEY: passwords, PINs, API keys, tokens and private keys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_prep.redact.entropy import is_random
from data_prep.redact.spans import Span
from data_prep.redact.words import word_set

LONG = 32
_PEM = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----(?:.{0,20000}?-----END \1-----|[\w+/=\s:,.-]{0,20000})",
    re.S,
)
# What services put before their tokens.
_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    sk-[\w-]{20,} | [srp]k_(?:live|test)_\w{16,} | gh[pousr]_\w{20,} | github_pat_\w{20,}
    | gl(?:pat|rt|dt|ptt)-[\w-]{16,} | xox[a-z]-[\w-]{10,} | xapp-[\w-]{20,} | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])
    | AIza[\w-]{30,} | ya29\.[\w-]{20,} | GOCSPX-[\w-]{20,} | hf_[A-Za-z0-9]{20,} | npm_[A-Za-z0-9]{20,}
    | pypi-[\w-]{16,} | SG\.[\w-]{16,}\.[\w-]{16,} | dop_v1_[0-9a-f]{32,} | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{24,}
    | eyJ[\w-]{8,}\.[\w-]{6,}(?:\.[\w-]*)? | \d{8,10}:AA[\w-]{30,} | AGE-SECRET-KEY-1[A-Z0-9]{40,}
    | lin_api_\w{20,} | r8_\w{30,} | gsk_\w{30,}
    )""",
    re.X,
)
_BEARER = re.compile(r"\b(?:bearer|basic)\s+(?P<value>[\w.~+/-]{16,}=*)", re.I)
_RUN = re.compile(r"(?<![\w+/#@-])[\w+/-]{32,}={0,2}(?![\w+/=])")
# Words after which a password comes, and words after which one comes only if there is a digit in it.
_STRONG = (
    r"pass\s?words?|pass\s?phrase|passwd|passwort|kennwort|pwd|pw|mot de passe|mdp|contrase[ñn]a|senha|wachtwoord"
    r"|lösenord|has[łl]o|şifre|пароль|密码|密碼|パスワード|비밀번호"
)
_WEAK = (
    r"pass|pass\s?code|pin(?:[ -]?code)?|puk|cvv2?|cvc|otp|tan|clave|parola(?: d'ordine)?|credentials?|accountkey"
    r"|(?:security|access|entry|door|gate|alarm|verification|backup|recovery|2fa|wi-?fi|login) code"
    r"|(?:tür|zugangs|sicherheits)code|(?:api|access|secret|private|auth|license|encryption)[ _-]?key"
    r"|(?:(?:client|shared|app)[ _-])?secret|(?:(?:auth|access|refresh)[ _-]?)?token"
)
_IS = r"is|was|ist|war|lautet|es|era|est|è|é|jest|это"
_FOR = r"(?: (?:for|to|für|vom|von|zum|pour|para|per|of|do|del|de la) [^\s:=]{1,30}(?: [^\s:=]{1,20})?)?"
_SAID = re.compile(
    rf"(?<![^\W_])(?:(?P<strong>{_STRONG})|(?:{_WEAK})){_FOR}"
    rf"(?P<sign>[\"']?\s{{0,3}}(?:[:=：]|=>|->)\s{{0,3}}|\s(?:{_IS})\s?(?:now|jetzt|still)?\s?:?\s)"
    r"(?:[\"'`“„«](?P<quoted>[^\"'`“”„»\n]{3,128})[\"'`“”»]|(?P<bare>[^\s\"'`]{3,128}))",
    re.I,
)
# "pin 4821", with nothing between; and what routers print.
_BARE = re.compile(
    r"(?<!\w)(?:(?:pin|puk|cvv2?|cvc|otp)(?:[ -]?(?:code|nr\.?))? (?P<value>\d{3,8})"
    r"|(?:key|schlüssel|clé|chiave)\s?[:=]\s?(?P<long>(?=\S*\d)[^\s\"']{16,64}))(?!\w)",
    re.I,
)
# What stands there when somebody talks about a password.
_TALK = word_set("""
    hacked stolen leaked lost forgotten compromised found cracked guessed exposed shown sent not wrong right correct
    incorrect required the that this same still too very really super pretty just only also your yours mine his her
    their our expired reset changed easy hard strong weak saved stored short long secret safe good bad old new
    different written hidden protected needed set gone what where something nothing everything invalid valid empty
    missing unknown ok okay fine yes null none true false more less one two all like always never under inside with
    for and but because falsch richtig nicht das der die dein mein noch sehr zu neu alt gleich incorrecta correcta muy
    pas trop bon fausse incorrect errata sbagliata hashed encrypted optional minimum
""")


def has_token(text: str) -> bool:
    """Whether a service's token stands in it."""
    return _TOKEN.search(text) is not None


def keys(text: str) -> Iterator[Span]:
    """Private key blocks, tokens, what somebody says is a password, and long random runs."""
    for m in _PEM.finditer(text):
        yield _span(m.start(), m.end(), m[0].rstrip())
    for m in _TOKEN.finditer(text):
        yield _span(m.start(), m.end(), m[0].rstrip(".-"))
    for m in _BEARER.finditer(text):
        if any(c.isdigit() for c in m["value"]):
            yield _span(m.start("value"), m.end("value"), m["value"])
    for m in _SAID.finditer(text):
        yield from _said(m, text)
    for m in _BARE.finditer(text):
        yield _span(m.start(m.lastgroup or 0), m.end(), m[m.lastgroup or 0])
    for m in _RUN.finditer(text):
        if is_random(m[0], LONG):
            yield _span(m.start(), m.end(), m[0])


def _said(m: re.Match[str], text: str) -> Iterator[Span]:
    group = "quoted" if m["quoted"] else "bare"
    value = m[group] if m["quoted"] else m[group].rstrip(".,;:)?]}")
    end = m.start(group) + len(value)
    ends = not text[end:].strip() or text[end] in ".,;:)?!\n"
    if _is_password(value, m["strong"] is not None, m["sign"].strip()[-1:] in tuple(":=：>"), ends):
        yield _span(m.start(group), end, value)


def _is_password(value: str, strong: bool, signed: bool, ends: bool) -> bool:
    """Whether this is the password rather than talk about it."""
    if len(value) < (3 if strong else 4) or value.casefold().rstrip("!") in _TALK or len(set(value)) == 1:
        return False
    if any(c.isdigit() for c in value):
        return (
            strong
            or len(value) >= 6
            or re.fullmatch(r"\d{3,5}" if signed else r"[\d#*]{4,}", value.strip("#*")) is not None
        )
    mixed = any(c.isupper() for c in value[1:]) or any(not c.isalnum() for c in value[:-1])
    # A word alone: what follows a colon, or ends the sentence.
    return strong and (signed or (mixed and "'" not in value and "’" not in value) or ends)


def _span(start: int, end: int, value: str) -> Span:
    return Span(start, min(end, start + len(value)), "KEY", value)
