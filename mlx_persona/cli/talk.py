"""``chat`` and ``generate``."""

from __future__ import annotations

import sys

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import GenerateConfig
from mlx_persona.errors import PersonaError
from mlx_persona.generation.chat import ChatSession, generate_once, open_model


def _generate(config: GenerateConfig, as_json: bool, prompt: str | None) -> None:
    text = prompt if prompt is not None else sys.stdin.read().rstrip("\n")
    if not text.strip():
        raise PersonaError("the prompt must not be empty", "give --prompt TEXT, or pipe it in")
    if as_json:
        ui.json_out({"prompt": text, "reply": "".join(generate_once(config, text))})
        return
    for piece in generate_once(config, text):
        ui.text_out(piece, end="")
    ui.text_out("")


def _chat(config: GenerateConfig, as_json: bool) -> None:
    if as_json:
        raise PersonaError("chat has no JSON form", "use: mlx-persona generate --json")
    session = ChatSession(*open_model(config), config)
    ui.info("/help shows the commands; Ctrl-D or /quit leaves")
    while True:
        try:
            line = ui.ask("> ").strip()
        except (EOFError, KeyboardInterrupt):
            ui.text_out("")
            return
        if line == "/quit":
            return
        if line.startswith("/"):
            ui.text_out(session.command(line))
        elif line:
            try:
                for piece in session.say(line):
                    ui.text_out(piece, end="")
            except KeyboardInterrupt:
                pass  # the reply so far stays in the history
            except PersonaError as error:  # a line that is too long: no reason to lose the conversation
                ui.error(error.message, error.hint)
            ui.text_out("")


_PROMPT = click.Option(["prompt", "--prompt"], metavar="TEXT", help="what to say to the model [default: stdin]")

commands: dict[str, click.Command] = {
    "chat": command("chat", GenerateConfig, _chat, "Talk to the base model, an adapter, or a fused model."),
    "generate": command(
        "generate", GenerateConfig, _generate, "Write one reply to --prompt, or to what is piped in.", [_PROMPT]
    ),
}
