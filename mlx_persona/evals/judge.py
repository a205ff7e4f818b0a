"""A judge for what no rule can score: any server that speaks OpenAI's chat protocol and that the user names.

It is asked for one digit from 1 to 5 per reply and dimension. Where it tells the probabilities of that digit, the
score is their mean, which is finer than the likeliest digit (G-Eval: Liu et al., 2023, arXiv 2303.16634, section 2).
Every answer is kept in a file, so that nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message, dump_line

KEY = "MLX_PERSONA_JUDGE_KEY"
CACHE = "judge.jsonl"
ATTEMPTS = 3
TIMEOUT = 60.0  # seconds for one answer
# Where the digits have less probability than this together, the judge did not mean to give one.
_MASS = 0.5
_HERE = ("127.0.0.1", "::1", "localhost")
_SCALE = "12345"
_DIGIT = re.compile(r"(?<![\d.])[1-5](?![\d.]*\d)")
# How tokenizers write a space or a line's end before a token, in servers that tell tokens as they are in there.
_BLANK = " \n\t\u0120\u010a\u2581"
_ORDER = "You rate one reply in a chat. Answer with a single digit from 1 to 5 and nothing else."
_ALIVE = "check the address, and that the server runs"
AGAIN = "the same command continues"


class Rating(NamedTuple):
    """A score from 1 to 5; ``by`` says whether it is a mean over ``probabilities`` or the one ``digit``."""

    score: float
    by: str


class Judge:
    """One server (``url``), one of its models (``model``), and the answers so far."""

    def __init__(self, url: str, model: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """Find the model.

        Args:
            url: the protocol's address, as ``http://127.0.0.1:8080/v1``.
            model: which of its models; empty: the first that it names.
            sleep: waits between attempts, in seconds.

        Raises:
            PersonaError: no address, nobody there, or no model.
        """
        if not re.match(r"https?://[^/]", url):
            raise PersonaError(f"--judge must be an address like http://127.0.0.1:8080/v1, got {url!r}")
        self.url, self._sleep = url.rstrip("/"), sleep
        self._path: Path | None = None
        self._kept = ""
        self._known: dict[str, Rating] = {}
        self._logprobs = True
        # What is meant for this machine must not go through a proxy that the environment names for the network.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({} if self.here else None)).open
        self.model = model or self._first_model()

    @property
    def here(self) -> bool:
        """Whether the address is this machine's own."""
        return urlsplit(self.url).hostname in _HERE

    def keep_in(self, folder: Path, again: str = AGAIN) -> None:
        """Keep all answers in ``judge.jsonl`` of a folder, and take those that are there already as given.

        Args:
            folder: where.
            again: how to ask what is missing after an error, as its hint ends.
        """
        self._path = folder / CACHE
        self._kept = f"what was rated is kept: {again}"
        self._known.update(_read(self._path))

    def knows(self, dimension: str, meaning: str, messages: Sequence[Message], reply: str) -> bool:
        """Whether :meth:`rate` has the answer already and sends nothing."""
        return self._key(self._body(dimension, meaning, messages, reply)) in self._known

    def rate(self, dimension: str, meaning: str, messages: Sequence[Message], reply: str) -> Rating:
        """How good a reply is on one dimension of the rubric.

        Raises:
            PersonaError: the server does not answer, refuses, or answers no digit.
        """
        body = self._body(dimension, meaning, messages, reply)
        key = self._key(body)
        if key not in self._known:
            self._known[key] = self._ask(body)
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(dump_line({"key": key, **self._known[key]._asdict()}))
        return self._known[key]

    def _body(self, dimension: str, meaning: str, messages: Sequence[Message], reply: str) -> dict[str, Any]:
        """The question. System messages are left out: they are for the model that is rated."""
        said = "\n".join(f"{m.role}: {m.content}" for m in messages if m.role != "system")
        asked = f"Dimension: {dimension}. {meaning}\n\nThe chat:\n{said}\n\nThe reply to rate:\n{reply}\n\nYour digit:"
        return {
            "model": self.model,
            "messages": [{"role": "system", "content": _ORDER}, {"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": 4,
        }

    def _key(self, body: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([self.url, body]).encode()).hexdigest()

    def _hint(self, tip: str) -> str:
        return "; ".join(filter(None, (tip, self._kept)))

    def _first_model(self) -> str:
        value = self._send("models", None)
        try:
            return str(value["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise PersonaError(f"the judge at {self.url} names no model", "name one with --judge-model") from None

    def _ask(self, body: dict[str, Any]) -> Rating:
        """One rating; a server that refuses to tell probabilities is not asked for them again."""
        if self._logprobs:
            try:
                return self._rating(self._send("chat/completions", {**body, "logprobs": True, "top_logprobs": 10}))
            except _Refused:
                self._logprobs = False
        return self._rating(self._send("chat/completions", body))

    def _rating(self, value: Any) -> Rating:
        """The score in a server's answer."""
        try:
            choice = value["choices"][0]
            text = str(choice["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise PersonaError(
                f"the judge at {self.url} must answer as OpenAI's chat protocol says, got {json.dumps(value)[:200]}",
                self._kept or None,
            ) from None
        found = _DIGIT.search(text)
        if found is None:
            raise PersonaError(
                f"the judge at {self.url} must answer with a digit from 1 to 5, got {text[:80]!r}",
                self._hint("take a model that follows instructions (--judge-model)"),
            )
        mean = _expected(choice.get("logprobs"))
        return Rating(float(found[0]), "digit") if mean is None else Rating(mean, "probabilities")

    def _send(self, path: str, body: dict[str, Any] | None) -> Any:
        """The JSON answer to one request, tried again where that may help."""
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {secret}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        problem, refuses = "", f"the judge at {self.url} refuses"
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(2.0 ** (attempt - 1))
            try:
                with self._open(request, timeout=TIMEOUT) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {_reason(error)}"
                if error.code in (401, 403, 404):
                    tip = self._hint(f"check the address, and the key in {KEY}")
                    raise PersonaError(f"{refuses}: {problem}", tip) from error
                if error.code < 500 and error.code != 429:
                    raise _Refused(f"{refuses}: {problem}", self._kept or None) from error
            except (OSError, HTTPException, ValueError) as error:  # nobody there, too slow, not JSON
                problem = str(getattr(error, "reason", error)) or type(error).__name__
        raise PersonaError(f"the judge at {self.url} does not answer: {problem}", self._hint(_ALIVE))


class _Refused(PersonaError):  # noqa: N818  (what the user is told, as its parent)
    """The server does not like the request as it is."""


def _reason(error: urllib.error.HTTPError) -> str:
    with error:
        text = error.read(500).decode("utf-8", "replace")
    return " ".join(text.split())[:200] or str(error.reason)


def _expected(logprobs: Any) -> float | None:
    """The mean digit under the probabilities at the first place where digits are likely; None where they are not told.

    Which token was taken there does not matter, and not every server says it: mlx-lm's names one of the likely ones.
    """
    try:
        for place in logprobs["content"]:
            mass = dict.fromkeys(_SCALE, 0.0)
            for one in place["top_logprobs"]:
                if (token := str(one["token"]).strip(_BLANK)) in mass:
                    mass[token] += math.exp(float(one["logprob"]))
            total = sum(mass.values())
            if _MASS <= total < math.inf:
                mean = sum(int(digit) * share for digit, share in mass.items()) / total
                return min(5.0, max(1.0, mean))  # rounding must not leave the scale
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return None


def _read(path: Path) -> dict[str, Rating]:
    """The answers so far; a line that was cut off or damaged is left out, and asked for again."""
    known: dict[str, Rating] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError:
        return known
    if lines and not lines[-1].endswith("\n"):
        with path.open("a", encoding="utf-8") as file:  # what comes next begins a line of its own
            file.write("\n")
    for line in lines:
        try:
            value = json.loads(line)
            key, rating = str(value["key"]), Rating(float(value["score"]), str(value["by"]))
        except (ValueError, KeyError, TypeError):
            continue
        if 1 <= rating.score <= 5:
            known[key] = rating
    return known
