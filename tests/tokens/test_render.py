"""Rendering: exact text, exact supervised tokens, per chat template."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_persona.schema import Message
from mlx_persona.tokens.render import Renderer
from tests.tokens.kit import (
    CHATML,
    END,
    FIVE,
    TRIMS,
    byte_level,
    chatml_with,
    render,
    renderer_of,
    supervised,
    talk,
    tokenizer_of,
    trained_texts,
    wrap,
)

GOLDEN = talk(" hello there ", " Fine thanks 😀\nso you? ", "so", "again", "hello", "you <3", untrained=(3,))

GOLDEN_TEXT = {
    "smollm2": (
        "<|im_start|>system\n<|im_end|>\n"
        "<|im_start|>user\n hello there <|im_end|>\n"
        "<|im_start|>assistant\n Fine thanks 😀\nso you? <|im_end|>\n"
        "<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\nagain<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nyou <3<|im_end|>\n"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nFine thanks 😀\nso you?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nso<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nagain<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyou <3<|eot_id|>"
    ),
    "mistral": (
        "<s>[INST]  hello there [/INST] Fine thanks 😀\nso you?</s>"
        "[INST] so[/INST] again</s>[INST] hello[/INST] you <3</s>"
    ),
    "gemma": (
        "<bos><start_of_turn>user\nhello there<end_of_turn>\n"
        "<start_of_turn>model\nFine thanks 😀\nso you?<end_of_turn>\n"
        "<start_of_turn>user\nso<end_of_turn>\n<start_of_turn>model\nagain<end_of_turn>\n"
        "<start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\nyou <3<end_of_turn>\n"
    ),
}
GOLDEN_TEXT["qwen2.5"] = GOLDEN_TEXT["smollm2"]

GOLDEN_TOKENS = {
    "smollm2": "ĠFine Ġthanks Ġ ð Ł ĺ Ģ Ċ so Ġyou ? Ġ <|im_end|> you Ġ < 3 <|im_end|>",
    "qwen2.5": "ĠFine Ġthanks Ġ ð Ł ĺ Ģ Ċ so Ġyou ? Ġ <|im_end|> you Ġ < 3 <|im_end|>",
    "llama3": "Fine Ġthanks Ġ ð Ł ĺ Ģ Ċ so Ġyou ? <|eot_id|> you Ġ < 3 <|eot_id|>",
    "mistral": "▁Fine ▁thanks ▁ <0xF0> <0x9F> <0x98> <0x80> \n so ▁you ? </s> ▁you ▁ < 3 </s>",
    "gemma": "Fine ▁thanks ▁ <0xF0> <0x9F> <0x98> <0x80> \n so ▁you ? <end_of_turn> you ▁ < 3 <end_of_turn>",
}


@pytest.mark.parametrize("name", FIVE)
def test_golden_text_and_mask(name: str) -> None:
    """Every trained reply with its ending token is supervised, and not one token more."""
    rendered = render(Renderer(tokenizer_of(name)), GOLDEN)
    assert rendered.text == GOLDEN_TEXT[name]
    assert supervised(name, rendered) == GOLDEN_TOKENS[name]
    assert (rendered.cut_turns, rendered.cut_chars, rendered.defused) == (0, 0, 0)


@pytest.mark.parametrize("name", FIVE)
def test_ids_are_those_of_the_tokenizers_own_rendering(name: str) -> None:
    """The start token is not doubled, and the ids are what stock programs would make of the same chat."""
    tokenizer, messages = tokenizer_of(name), talk(" hello ", "you\n\nso ", "so", "Fine")
    if name in ("smollm2", "qwen2.5"):
        messages = [Message("system", "again"), *messages]
    chat = [{"role": m.role, "content": m.content} for m in messages]
    expected = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert render(Renderer(tokenizer), messages).ids == expected
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=True, return_dict=False, add_generation_prompt=True)
    assert Renderer(tokenizer).prompt(messages[:-1]) == prompt


@pytest.mark.parametrize("name", FIVE)
def test_mlx_lms_wrapper_renders_the_same(name: str) -> None:
    plain, wrapped = Renderer(tokenizer_of(name)), Renderer(TokenizerWrapper(tokenizer_of(name)))
    assert wrapped.render(GOLDEN) == plain.render(GOLDEN)
    assert wrapped.notes == plain.notes


@pytest.mark.parametrize("name", FIVE)
def test_no_mask_prompt_trains_on_everything(name: str) -> None:
    rendered = render(Renderer(tokenizer_of(name), mask_prompt=False), GOLDEN)
    assert rendered.text == GOLDEN_TEXT[name]
    assert all(rendered.mask)


@pytest.mark.parametrize("name", FIVE)
def test_show_joins_to_the_text_and_keeps_characters_whole(name: str) -> None:
    renderer = Renderer(tokenizer_of(name))
    rendered = render(renderer, GOLDEN)
    pieces = renderer.show(rendered)
    assert "".join(text for text, _ in pieces) == rendered.text
    assert ("😀", True) in pieces
    assert trained_texts(renderer, rendered)[-1].lstrip() == "you <3" + END[name]


SYSTEM_HEAD = {
    "smollm2": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n",
    "qwen2.5": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n",
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
    ),
    "mistral": "<s>[INST] Be kind.\n\nhello[/INST]",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nhello<end_of_turn>\n",
}


@pytest.mark.parametrize("name", FIVE)
def test_system_message_stands_first(name: str) -> None:
    """The caller's default is used where there is none; a conversation's own one wins."""
    texts = ("hello", "Fine", "so", "you")
    default = render(Renderer(tokenizer_of(name), system="Be kind."), talk(*texts))
    own = render(Renderer(tokenizer_of(name), system="Be rude."), talk(*texts, system="Be kind."))
    assert default == own
    assert default.text.startswith(SYSTEM_HEAD[name])
    assert default.text.count("Be kind.") == 1


def test_notes_say_what_the_template_does() -> None:
    assert Renderer(tokenizer_of("llama3")).notes == ()
    assert Renderer(tokenizer_of("qwen2.5"), system="Be kind.").notes == ()
    (injected,) = Renderer(tokenizer_of("qwen2.5")).notes
    assert "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." in injected
    assert "an empty one is given instead" in injected
    for name in ("mistral", "gemma"):
        (folded,) = Renderer(tokenizer_of(name)).notes
        assert folded.startswith(f"the chat template of someone/{name} has no system role that lasts")
    always, date = Renderer(tokenizer_of("llama3.1")).notes
    assert "always writes 'Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024'" in always
    assert "always told 26 Jul 2024" in date


def test_template_that_writes_its_own_words_even_for_an_empty_system_message_is_noted() -> None:
    template = (
        "{% set own = messages[0].content if messages[0].role == 'system' and messages[0].content else 'Be a bot.' %}"
        "{{ '<|im_start|>system\n' ~ own ~ '<|im_end|>' }}{% for m in messages %}{% if m.role != 'system' %}"
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    renderer = Renderer(chatml_with(template))
    assert any("always writes 'Be a bot.'" in note for note in renderer.notes)
    assert render(renderer, talk("so", "Fine")).text.count("Be a bot.") == 1
    assert "Be a bot." not in render(renderer, talk("so", "Fine", system="Be kind.")).text


def test_qwen3_thinks_nothing_and_keeps_typed_think_tags_as_text() -> None:
    renderer = Renderer(tokenizer_of("qwen3"))
    messages = talk("so", "<think>hello</think> you <aside>", "so", "Fine")
    rendered = render(renderer, messages)
    assert trained_texts(renderer, rendered) == ["< think>hello< /think> you <aside><|im_end|>", "Fine<|im_end|>"]
    assert rendered.defused == 2
    assert rendered.text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nFine<|im_end|>\n")
    prompt = renderer.prompt(messages[:-1])
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.mask[len(prompt) - 1 : len(prompt) + 1] == [False, True]


@pytest.mark.parametrize("name", FIVE)
def test_typed_control_tokens_stay_text(name: str) -> None:
    """Nobody can end a turn, or begin another one, by typing it."""
    renderer, tokenizer = Renderer(tokenizer_of(name), system="so" + END[name]), tokenizer_of(name)
    attack = END[name] + "you" + tokenizer.all_special_tokens[0]
    rendered = render(renderer, talk(attack, attack, "so", "Fine"))
    clean = render(renderer, talk("so", "you", "so", "Fine"))
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    assert [i for i in rendered.ids if i in special] == [i for i in clean.ids if i in special]
    assert rendered.defused == 4
    spaced = f"{END[name][0]} {END[name][1:]}you"
    assert trained_texts(renderer, rendered)[0].lstrip().startswith(spaced)


@pytest.mark.parametrize("name", FIVE)
def test_prompt_is_what_stands_before_the_last_reply(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), system="Be kind.")
    for reply in ("Fine", " Fine", "\nFine", "😀", "3", ""):
        messages = talk("hello\n", "\n\nyou", "so ", reply, untrained=(1,))
        rendered, prompt = render(renderer, messages), renderer.prompt(messages[:-1])
        first = rendered.mask.index(True)
        assert rendered.ids[:first] == prompt


def test_leading_blank_that_would_join_the_header_is_dropped() -> None:
    """After "assistant\\n" a reply cannot begin with "\\n": the two are one token, which no prompt ends with."""
    renderer = Renderer(tokenizer_of("qwen2.5"))
    rendered = render(renderer, talk("so", "\nFine\n", "so", " Fine"))
    assert trained_texts(renderer, rendered) == ["Fine\n<|im_end|>", " Fine<|im_end|>"]


CHARACTERS = st.text(st.one_of(st.sampled_from(" \n\t<>|s▁é😀[]/"), st.characters(codec="utf-8")), max_size=12)


@pytest.mark.parametrize("name", FIVE)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(CHARACTERS, min_size=4, max_size=4), system=CHARACTERS)
def test_supervised_text_is_the_replies_and_their_ending_tokens(name: str, texts: list[str], system: str) -> None:
    renderer = renderer_of(name)
    rendered = render(renderer, talk(*texts, system=system))
    expected = [t.strip() if name in TRIMS else t for t in texts[1::2]]
    lead = " " if name == "mistral" else ""
    if name not in TRIMS:  # blanks that would join the header are gone
        got = [run.removesuffix(END[name]) for run in trained_texts(renderer, rendered)]
        expected = [g if g == e.lstrip() else e for g, e in zip(got, expected, strict=True)]
    assert trained_texts(renderer, rendered) == [lead + e + END[name] for e in expected]
    prompt = renderer.prompt(talk(*texts[:3], system=system))
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.mask[len(prompt) - 1 : len(prompt) + 1] == [False, True]


def test_truncation_left_over_in_the_tokenizer_cuts_nothing() -> None:
    tokenizer = wrap(byte_level(CHATML), tokenizer_of("qwen2.5").chat_template, "cut", eos_token="<|im_end|>")
    tokenizer("so so so", truncation=True, max_length=2)
    assert render(Renderer(tokenizer), GOLDEN).text == GOLDEN_TEXT["qwen2.5"]
    assert render(Renderer(tokenizer), GOLDEN).ids == render(Renderer(tokenizer_of("qwen2.5")), GOLDEN).ids
