"""A whole blind comparison as a user makes it: the command, a browser with keys alone, a stop and a resume."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from mlx_persona.evals.blind.score import binomial_p
from mlx_persona.evals.intervals import wilson
from mlx_persona.schema import Conversation, Message, write_jsonl
from tests.toy import SAYS, write_model
from tests.web.browser import watched_page
from tests.web.kit import saved

ROOT = Path(__file__).resolve().parents[2]
N = 20
KEYS = "1221t12112" + "2t11212212"


@contextmanager
def program(folder: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``mlx-persona compare ...`` and the address that it prints."""
    command = [sys.executable, "-m", "mlx_persona", "compare", *args, "--no-open", "--json", "-C", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
                    yield process, found[0]
                    return
            raise AssertionError(said)
        finally:
            if process.poll() is None:
                process.kill()


def press(page: Page, keys: str, done: int) -> None:
    """Press the keys, each once the page shows that the one before is saved."""
    expect(page.locator("#count")).to_have_text(f"{done} of {N}")
    for count, key in enumerate(keys, done + 1):
        page.keyboard.press(key)
        expect(page.locator("#count")).to_have_text(f"{count} of {N}")


def test_twenty_items_with_keys_alone_interrupted_once_and_resumed(chromium: Browser, tmp_path: Path) -> None:
    write_model(tmp_path / "toy")
    talks = [
        Conversation((Message("user", f"what about number {i}?"), Message("assistant", f"{SAYS} {i}")))
        for i in range(25)
    ]
    write_jsonl(tmp_path / "data/clean/test.jsonl", talks)
    options = ("--model", "toy", "--max-tokens", "8", "--max-seq-length", "128")
    run = tmp_path / "runs/compare-1"

    with program(tmp_path, "base", "real", *options) as (process, address):
        with watched_page(chromium, address) as page:
            expect(page.locator("#question")).to_have_text("Which one did the person really write?")
            press(page, "122", 0)
            page.keyboard.press("u")
            expect(page.locator("#count")).to_have_text(f"2 of {N}")
            press(page, KEYS[2:9], 2)
        assert len(saved(run)) == 9  # the page is closed; nothing is lost
        with watched_page(chromium, address) as page:
            press(page, KEYS[9], 9)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert out == ""
        assert "stopped: 10 of 20 items are answered and kept" in err
        assert "hint: go on with: mlx-persona compare --resume runs/compare-1" in err
        assert "Traceback" not in err

    with program(tmp_path, "--resume", "runs/compare-1") as (process, again):
        assert again != address
        with watched_page(chromium, again) as page:
            press(page, KEYS[10:], 10)
            expect(page.locator("#headline")).to_be_visible()
            shown = page.locator("#rows").inner_text()
            page.keyboard.press("Enter")
            expect(page.locator("#over")).to_be_visible()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err

    firsts = [json.loads(line)["first"] for line in (run / "items.jsonl").read_text().splitlines()]
    other = {"a": "b", "b": "a"}
    chosen = [
        "tie" if key == "t" else {"1": first, "2": other[first]}[key] for key, first in zip(KEYS, firsts, strict=True)
    ]
    assert saved(run) == chosen
    result = json.loads(out)
    assert {"path": "runs/compare-1", **json.loads((run / "result.json").read_text())} == result
    wins = {side: chosen.count(side) for side in ("a", "b", "tie")}
    assert (result["a"], result["b"]) == ("base", "real")
    assert (result["a_wins"], result["b_wins"], result["ties"]) == (wins["a"], wins["b"], wins["tie"])
    decided = wins["a"] + wins["b"]
    assert result["fooled"]["times"] == wins["a"]
    assert result["fooled"]["rate"] == wins["a"] / decided
    assert result["fooled"]["interval"] == list(wilson(wins["a"], decided))
    assert result["fooled"]["p_value"] == binomial_p(wins["a"], decided)
    assert f"base was taken for the person\t{wins['a']} of {N}" in shown
