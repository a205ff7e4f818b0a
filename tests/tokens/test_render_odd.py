"""Odd templates and tokenizers are followed, or refused by name."""

from __future__ import annotations

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import normalizers

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message
from mlx_persona.tokens.render import Renderer
from tests.tokens.kit import (
    CHATML,
    TEMPLATES,
    byte_level,
    chatml_with,
    render,
    sentencepiece_like,
    talk,
    tokenizer_of,
    trained_texts,
    wrap,
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}", "ending token"),
        ("{% for m in messages %}{{ m.role }} {{ m.content | upper }}<|im_end|>{% endfor %}", "leaves out, moves"),
        ("{% for m in messages %}{{ m.role }} {{ m.content | title }}<|im_end|>{% endfor %}", "leaves out, moves"),
        (
            "{% for m in messages %}{{ m.role }} {{ m.content | replace('so', 'no') }}<|im_end|>{% endfor %}",
            "message 1",
        ),
        ("{{ raise_exception('not today') }}", "refuses a conversation .user.*not today"),
    ],
)
def test_template_that_cannot_be_followed_is_an_error_that_names_it(template: str, reason: str) -> None:
    with pytest.raises(PersonaError, match=reason) as caught:
        Renderer(chatml_with(template)).render(talk("so", "Fine"))
    assert "someone/odd" in caught.value.message


def test_llama2s_blank_before_the_ending_token_is_trained_on() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ ' <|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    renderer = Renderer(chatml_with(template))
    assert trained_texts(renderer, render(renderer, talk("so", "Fine"))) == ["Fine <|im_end|>"]


@pytest.mark.parametrize(
    "asks", ["", "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"]
)
def test_generation_prompt_that_differs_from_training_is_noted(asks: str) -> None:
    """And the mask still holds the reply and its ending token only."""
    turns = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    renderer = Renderer(chatml_with(turns + asks))
    (note,) = renderer.notes
    assert trained_texts(renderer, render(renderer, talk("so", "Fine"))) == ["Fine<|im_end|>"]
    assert note.startswith("the generation prompt of someone/odd is not what its chat template writes before a reply")


def test_no_chat_template_is_an_error_with_a_hint() -> None:
    for tokenizer in (wrap(byte_level(CHATML), None, "bare"), TokenizerWrapper(wrap(byte_level(CHATML), None, "bare"))):
        with pytest.raises(PersonaError, match="tokenizer of someone/bare must have a chat template") as caught:
            Renderer(tokenizer)
        assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_two_replies_in_a_row_are_refused_by_name(name: str) -> None:
    messages = [Message("user", "so"), Message("assistant", "Fine"), Message("assistant", "you")]
    with pytest.raises(PersonaError, match=f"someone/{name} refuses .*must take turns"):
        Renderer(tokenizer_of(name)).render(messages)


def test_system_message_alone_is_an_error() -> None:
    with pytest.raises(PersonaError, match="a turn besides the system message"):
        Renderer(tokenizer_of("llama3")).prompt([Message("system", "so")])


def test_system_message_is_a_turn_of_its_own_where_a_reply_comes_first_and_there_is_no_system_role() -> None:
    renderer = Renderer(tokenizer_of("gemma"), system="Be kind.")
    rendered = render(renderer, [Message("assistant", "Fine")])
    assert rendered.text == (
        "<bos><start_of_turn>user\nBe kind.<end_of_turn>\n<start_of_turn>model\nFine<end_of_turn>\n"
    )
    assert trained_texts(renderer, rendered) == ["Fine<end_of_turn>"]


def test_without_a_user_turn_only_the_last_reply_is_kept() -> None:
    renderer = Renderer(tokenizer_of("llama3"))
    replies = [Message("assistant", "so"), Message("assistant", "Fine")]
    needed = render(renderer, replies[1:])
    assert render(renderer, replies, len(needed.ids)).text == needed.text
    assert renderer.render(replies, len(needed.ids) - 1) is None


@pytest.mark.parametrize("reply", ["Fine", " Fine", "😀", "3"])
def test_tokenizer_that_puts_a_blank_after_every_control_token(reply: str) -> None:
    """As Llama 2 and Mistral 7B v0.1: that blank has no place in the text, and belongs to the reply."""
    backend = sentencepiece_like(("<s>", "</s>", "[INST]", "[/INST]"), metaspace=False)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    template = (TEMPLATES / "mistral.jinja").read_text(encoding="utf-8")
    renderer = Renderer(wrap(backend, template, "older", bos_token="<s>", eos_token="</s>"))
    messages = talk("so", reply, "hello", reply)
    rendered, prompt = render(renderer, messages), renderer.prompt(messages[:-1])
    assert trained_texts(renderer, rendered) == [f" {reply.strip()}</s>"] * 2
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.mask[len(prompt) - 1 : len(prompt) + 1] == [False, True]


def test_date_that_cannot_be_fixed_is_noted() -> None:
    template = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.role ~ m.content }}<|im_end|>{% endfor %}"
    notes = Renderer(chatml_with(template)).notes
    assert any("may write today's date" in note for note in notes)


def test_slow_tokenizer_is_an_error() -> None:
    class Slow:
        name_or_path = "someone/slow"
        chat_template = tokenizer_of("qwen2.5").chat_template
        added_tokens_decoder = tokenizer_of("qwen2.5").added_tokens_decoder
        apply_chat_template = tokenizer_of("qwen2.5").apply_chat_template

    with pytest.raises(PersonaError, match=r"tokenizer of someone/slow must be a fast one .* got Slow"):
        Renderer(Slow())


def test_show_keeps_blanks_that_the_tokenizer_drops() -> None:
    backend = byte_level(CHATML)
    backend.normalizer = normalizers.Strip()
    renderer = Renderer(wrap(backend, tokenizer_of("qwen2.5").chat_template, "strips", eos_token="<|im_end|>"))
    rendered = render(renderer, talk("so", "Fine"))
    assert renderer.show(rendered)[-2:] == [("<|im_end|>", True), ("\n", False)]
    assert "".join(text for text, _ in renderer.show(rendered)) == rendered.text
