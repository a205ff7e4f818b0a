"""EMAIL, URL and IP: what is on the net."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from data_prep.redact.entropy import is_random
from data_prep.redact.keys import has_token
from data_prep.redact.spans import Span

_EMAIL = re.compile(
    r"(?<![\w.+%'-])[\w+%'-]{1,64}(?:\.[\w+%'-]{1,64}){0,8}@(?:[^\W_](?:[\w-]{0,62}\w)?\.){1,6}"
    r"(?!(?:png|jpe?g|gif|svg|webp|js|ts|py|css|html)\b)(?:xn--\w{2,30}|[^\W\d_]{2,24})(?![\w@])"
)
_AT = r"(?:\s?[(\[{<]\s?(?:at|ät|@|arroba|chiocciola)\s?[)\]}>]\s?|\s+(?:at|AT)\s+(?=[\w-]+\s+(?:dot|DOT)\s))"
_DOT = r"(?:\s?[(\[{<]\s?(?:dot|punkt|point|punto|\.)\s?[)\]}>]\s?|\s+(?:dot|DOT|punkt)\s+|\.)"
_SPOKEN = re.compile(
    rf"(?<![\w.+'’-])[\w+-]{{1,64}}(?:{_DOT}[\w+-]{{1,64}}){{0,3}}{_AT}[\w-]{{2,63}}(?:{_DOT}(?!dot\b)[a-z]{{2,12}}){{1,3}}\b",
    re.I,
)

_URL = re.compile(
    r"(?<![\w@.+-])(?:[a-z][a-z0-9+.-]{1,20}://|www\.|(?:[a-z0-9](?:[a-z0-9-]{0,62}\.)){1,5}[a-z]{2,24}/)"
    r"[^\s<>\"`{}|\\^]{2,4000}",
    re.I,
)
_CREDENTIALS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/@]*:[^\s/@]+@", re.I)
_USER = re.compile(r"[a-z][a-z0-9+.-]*://([^\s/@:]{16,})@", re.I)
# Links that let in whoever has them, by the hosts that people share.
_SHARED = re.compile(
    r"""(?:https?://)?(?:www\.|[a-z0-9]+web\.|\w+\.)?(?:
    chat\.whatsapp\.com/\w{6} | t\.me/(?:\+|joinchat/)\w{6} | telegram\.me/joinchat/ | discord\.gg/\w{4}
    | discord(?:app)?\.com/(?:invite|api/webhooks)/ | signal\.(?:group|me)/\# | zoom\.us/(?:j|my|w|s)/
    | meet\.google\.com/[a-z]{3}- | teams\.(?:microsoft|live)\.com/(?:l/meetup-join|meet)/ | join\.(?:slack|skype)\.com/
    | docs\.google\.com/\w+/(?:u/\d/)?d/ | drive\.google\.com/(?:file|drive|open|uc) | photos\.app\.goo\.gl/
    | photos\.google\.com/share | (?:maps\.app\.)?goo\.gl/(?:maps/)? | (?:dropbox\.com|db\.tt)/(?:s|sh|scl|l)/
    | 1drv\.ms/ | we\.tl/ | wetransfer\.com/downloads/ | icloud\.com/\w+/
    | hooks\.slack\.com/services/ | paypal\.me/ | venmo\.com/ | cash\.app/\$
    )""",
    re.I | re.X,
)
# What follows such a word in a path, or has such a name in a query, is a secret.
_INVITE = re.compile(
    r"/(?:invites?|invitations?|join|reset|reset-?password|password[_-]?reset|verify|verification|verify-?e?-?mail"
    r"|confirm|confirmation|activate|activation|magic|magic-?link|login-?link|unsubscribe|share|shared|sharing|token|auth|session|download-?link)/([\w.~!+%-]{8,})(?:[/?#]|$)",
    re.I,
)
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:\w*token|secret|sig|signature|password|passwd|pass|pwd|jwt|otp|sid|session_?(?:id|key)?"
    r"|credential|sas|oobcode|api_?key|ticket)$",
    re.I,
)
_LIKELY_NAME = re.compile(
    r"(?:^|[_.-])(?:key|auth|code|invite|reset|hash|nonce|confirm(?:ation)?|magic|access|resourcekey|hmac|state)$", re.I
)
# Sites where a long random part names something that everybody may see.
_PUBLIC = re.compile(
    r"(?:https?://)?(?:[\w-]+\.)*(?:spotify|youtube|youtu|twitter|x|tiktok|instagram|facebook|reddit|redd|imgur|giphy|tenor|github|gitlab|wikipedia"
    r"|wikimedia|amazon|ebay|imdb|stackoverflow|soundcloud|apple|netflix|pinterest|pinimg|medium|nytimes|theguardian"
    r"|bbc|arxiv|twitch|vimeo|etsy)\.(?:[a-z]{2,3}\.)?[a-z]{2,4}(?:[/?#:]|$)",
    re.I,
)

_V4 = re.compile(r"(?<![\w.])(?<!\w/)(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_V6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{1,4}|:)(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.I)
_VERSION = re.compile(
    r"\b(?:v|ver|versions?|release|build|firmware|driver|updat\w*|upgrad\w*|patch|section|chapter|python|node|java|php"
    r"|ruby|chrome|firefox|safari|ios|android|macos|kernel)\b",
    re.I,
)
_HOST = re.compile(
    r"\b(?:ip|ips|ipv4|server|host|router|address|adresse|ssh|ping|dns|subnet|gateway|proxy|vpn)\b", re.I
)
_SINGLE = re.compile(r"\d(?:\.\d){3}")
_GLOBAL = re.compile(r"(?:fe[89ab][0-9a-f]|f[cd][0-9a-f]{2}|2[0-9a-f]{3}):", re.I)
_NEAR = 60


def emails(text: str) -> Iterator[Span]:
    """Addresses with @, and spelled out ones: ``name (at) site (dot) org``."""
    for m in _EMAIL.finditer(text):
        # git@host:path is a login that everybody has.
        if not (m[0].startswith("git@") and text[m.end() : m.end() + 1] == ":"):
            yield Span(m.start(), m.end(), "EMAIL", m[0].casefold())
    for m in _SPOKEN.finditer(text):
        local, _, domain = re.sub(_AT, "@", m[0], count=1, flags=re.I).partition("@")
        dotted = [re.sub(_DOT, ".", part, flags=re.I) for part in (local, domain)]
        yield Span(m.start(), m.end(), "EMAIL", "@".join(dotted).casefold())


def urls(text: str) -> Iterator[tuple[int, int, bool]]:
    """Where links stand, and whether they hold a secret."""
    for m in _URL.finditer(text):
        url = m[0].rstrip(".,;:!?'’”»*_")
        while url.endswith((")", "]")) and url.count("[" if url[-1] == "]" else "(") < url.count(url[-1]):
            url = url[:-1].rstrip(".,;:!?'’”»*_")
        yield m.start(), m.start() + len(url), has_secret(url)


def has_secret(url: str) -> bool:
    """Whether a link has a password or a token in it, or lets in whoever has it."""
    user = _USER.match(url)
    if _CREDENTIALS.match(url) or (user and is_random(user[1], 16)) or _SHARED.match(url) or has_token(url):
        return True
    path, _, rest = url.partition("?")
    if not rest:
        path, _, rest = url.partition("#")
    public = _PUBLIC.match(url) is not None
    if any(
        _is_secret_value(pair.partition("=")[0], pair.partition("=")[2], public) for pair in re.split("[&#;?]", rest)
    ):
        return True
    invited = _INVITE.search(path)
    if invited and any(c.isdigit() or c.isupper() for c in invited[1]):
        return True
    return not public and any(_is_random_part(part) for part in path.split("/")[3 if "://" in path else 1 :])


def _is_secret_value(name: str, value: str, public: bool) -> bool:
    if _SECRET_NAME.search(name):
        return len(value) >= 4
    if _LIKELY_NAME.search(name):
        return not public and len(value) >= 8 and any(c.isdigit() for c in value)
    return not public and is_random(value, 20)


def _is_random_part(part: str) -> bool:
    """A long random part of a path, and no title in words-with-hyphens."""
    return any(is_random(chunk, 16) for chunk in re.split(r"[-_.~!,]|%..", part)) or (
        part.count("-") + part.count("_") <= 3 and is_random(part, 24)
    )


def ips(text: str) -> Iterator[Span]:
    """Addresses of the internet protocol, 4 and 6, without those that every machine has (127.0.0.1, 0.0.0.0, masks)."""
    fours = list(_V4.finditer(text))
    said = bool(fours) and _HOST.search(text) is not None
    for m in fours:
        before = text[max(0, m.start() - _NEAR) : m.start()]
        section = _SINGLE.fullmatch(m[0]) and text[m.end() : m.end() + 1] not in tuple("/:")
        if said or not (section or _VERSION.search(before)):
            yield from _ip(m)
    for m in _V6.finditer(text):
        groups = [g for g in m[0].split(":") if g]
        if (len(groups) >= 3 or _GLOBAL.match(m[0])) and any(c.isdigit() for c in m[0]):
            yield from _ip(m)


def _ip(m: re.Match[str]) -> Iterator[Span]:
    try:
        address = ipaddress.ip_address(m[0])
    except ValueError:
        return
    if not (address.is_loopback or address.is_unspecified or m[0].startswith("255.")):
        yield Span(m.start(), m.end(), "IP", str(address))
