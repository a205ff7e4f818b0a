"""Reading a report as a browser does, and finding in the run's files what it shows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from mlx_persona.config import ReportConfig
from mlx_persona.report.make import make_report
from tests.pagekit import Parsed


def written(*runs: str, **options: Any) -> str:
    """The page of these runs."""
    return make_report(ReportConfig(runs=runs, **options)).path.read_text(encoding="utf-8")


class Report(Parsed):
    """A report's figures, charts and remaining text.

    Attributes:
        source: the page itself.
        figures: ``(value, place, shown)`` of every figure.
        rest: text that is no figure, no quotation, no name and no chart.
        series: ``data-series`` -> the paths in it, of every chart.
    """

    QUOTED = ("data", "code", "bdi", "time", "dd", "svg", "title", "h3")

    def __init__(self, text: str) -> None:
        self.source = text
        self.figures: list[tuple[str, str, str]] = []
        self.rest = ""
        self.quoted: list[str] = []
        self.series: dict[str, list[str]] = {}
        self._series: list[str] = []
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a figure says that it is, and the paths of a chart's series."""
        super().handle_starttag(tag, attrs)
        values = {name: value or "" for name, value in attrs}
        if tag == "data":
            self.figures.append((values["value"], values["data-from"], ""))
        if tag == "g":
            self._series.append(values.get("data-series", ""))
        if tag == "path" and (name := next((s for s in reversed(self._series) if s), "")):
            self.series.setdefault(name, []).append(values["d"])

    def handle_endtag(self, tag: str) -> None:
        """Leaves a chart's group."""
        super().handle_endtag(tag)
        if tag == "g":
            self._series.pop()

    def handle_data(self, data: str) -> None:
        """A figure's text goes to the figure, what is quoted aside, and the rest to the rest."""
        super().handle_data(data)
        if "data" in self.open:
            value, place, shown = self.figures[-1]
            self.figures[-1] = value, place, shown + data
        elif "style" in self.open or any(tag in self.open for tag in self.QUOTED) or self._prompt():
            self.quoted.append(data)
        else:
            self.rest += data

    def _prompt(self) -> bool:
        """Whether this is a help text of an option or a prompt: both hold what others wrote."""
        last = next((attrs for tag, attrs in reversed(self.tags) if tag in ("small", "p")), {})
        return ("small" in self.open and last.get("class") == "help") or ("p" in self.open and "dir" in last)


def truth(place: str, root: Path) -> float:
    """What really stands at a figure's place, read anew from the files below ``root``, summed up or multiplied."""
    return sum(math.prod(_one(factor, root) for factor in part.split(" * ")) for part in place.split(" + "))


def _one(place: str, root: Path) -> float:
    name, _, pointer = place.partition("#")
    [path] = [p for p in root.rglob(name.split("/")[1]) if p.parent.name == name.split("/")[0]]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        kind, index, key = pointer.split("/")
        events = [e for e in map(json.loads, text.split("\n")[:-1]) if e["event"] == kind]
        return sum(e[key] for e in events) if index == "*" else events[int(index)][key]
    value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def says(shown: str, value: float) -> bool:
    """Whether a text is the value, rounded to as many digits as it shows."""
    factors = {" %": 0.01, " GB": 1e9, " MB": 1e6}
    if match := re.fullmatch(r"(?:(\d+) h )?(\d+) min(?: (\d+) s)?", shown):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return abs(3600 * hours + 60 * minutes + seconds - value) <= (0.5 if match[3] else 30)
    unit = next((u for u in (*factors, " s") if shown.endswith(u)), "")
    number = shown.removesuffix(unit).replace(",", "")
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    step = factors.get(unit, 1.0) * 10.0 ** (int(exponent or 0) - digits)
    return abs(float(number) * factors.get(unit, 1.0) - value) <= 0.5000001 * step
