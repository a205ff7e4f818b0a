"""Rendering: exact text, exact supervised tokens, per chat template."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message
from mlx_persona.tokens.render import Rendered, Renderer

TEMPLATES = Path(__file__).parent / "templates"
FIVE = ("smollm2", "qwen2.5", "llama3", "mistral", "gemma")
TRIMS = ("llama3", "mistral", "gemma")
WORDS = ["Fine", "thanks", "so", "you", "user", "model", "hello", "there", "again"]
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
BOS_EOS = {
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "qwen2.5": (None, "<|im_end|>"),
    "qwen3": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
}
END = {name: "<end_of_turn>" if name == "gemma" else eos for name, (_, eos) in BOS_EOS.items()}


def words_model(alphabet: list[str], blank: str, line: str) -> models.BPE:
    """A BPE in which each of WORDS (with and without a blank before it) and two line ends are one token."""
    vocab = {token: i for i, token in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in [blank + w for w in WORDS] + WORDS + [line * 2]:
        for n in range(1, len(word)):
            vocab.setdefault(word[: n + 1], len(vocab))
            if (word[:n], word[n]) not in merges:
                merges.append((word[:n], word[n]))
    fallback = "<0x00>" in vocab
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=fallback, unk_token="<unk>" if fallback else None)


def byte_level(special: tuple[str, ...], trim_offsets: bool = False) -> Tokenizer:
    """The kind of Qwen, Llama 3 and SmolLM2: blanks go with the word after them, line ends stay together."""
    out = Tokenizer(words_model(sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġ", "Ċ"))
    pieces = pre_tokenizers.Split(Regex(r"\s*[\r\n]+| ?[^\s]+|\s+"), "isolated")
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    out.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([AddedToken(text, special=True) for text in special])
    return out


def sentencepiece_like(special: tuple[str, ...], metaspace: bool) -> Tokenizer:
    """The kind of Mistral (a blank before the text, if it starts with none) and of Gemma (no such blank)."""
    letters = [chr(c) for c in range(33, 127)] + ["▁"]
    out = Tokenizer(words_model(["<unk>", *[f"<0x{b:02X}>" for b in range(256)], *letters, "\n"], "▁", "\n"))
    if metaspace:
        out.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        out.normalizer = normalizers.Replace(" ", "▁")
    out.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    out.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return out


def wrap(backend: Tokenizer, template: str | None, name: str, **tokens: Any) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        name_or_path=f"someone/{name}",
        clean_up_tokenization_spaces=False,
        **tokens,
    )


@cache
def tokenizer_of(name: str) -> Any:
    if name == "mistral":
        backend = sentencepiece_like(("<s>", "</s>", "[INST]", "[/INST]"), metaspace=True)
    elif name == "gemma":
        backend = sentencepiece_like(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), metaspace=False)
    else:
        backend = byte_level(LLAMA if name.startswith("llama") else CHATML, trim_offsets=name == "smollm2")
    if name == "qwen3":
        backend.add_tokens(["<think>", "</think>", "<aside>"])
    bos, eos = BOS_EOS[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return wrap(backend, template, name, **({"bos_token": bos} if bos else {}), eos_token=eos)


def chatml_with(template: str) -> Any:
    return wrap(byte_level(CHATML), template, "odd", eos_token="<|im_end|>")


def talk(*texts: str, system: str | None = None, untrained: tuple[int, ...] = ()) -> list[Message]:
    """User and assistant in turn; ``untrained`` counts all turns from 0."""
    turns = [Message("assistant" if i % 2 else "user", t, i not in untrained) for i, t in enumerate(texts)]
    return turns if system is None else [Message("system", system), *turns]


def render(renderer: Renderer, messages: list[Message], max_tokens: int | None = None) -> Rendered:
    rendered = renderer.render(messages, max_tokens)
    assert rendered is not None
    assert len(rendered.ids) == len(rendered.mask)
    return rendered


def supervised(name: str, rendered: Rendered) -> str:
    """The supervised tokens as the vocabulary spells them, parted by blanks."""
    ids = [i for i, trained in zip(rendered.ids, rendered.mask, strict=True) if trained]
    return " ".join(tokenizer_of(name).convert_ids_to_tokens(ids))


def trained_texts(renderer: Renderer, rendered: Rendered) -> list[str]:
    """The text of each run of supervised tokens."""
    runs, before = [], False
    for text, trained in renderer.show(rendered):
        if trained:
            runs.append(runs.pop() + text if before else text)
        before = trained
    return runs


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


@cache
def renderer_of(name: str) -> Renderer:
    return Renderer(tokenizer_of(name))


LONG = [f"{w} {w}" for w in ("so", "you", "hello", "there", "Fine", "thanks", "again", "so")]


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_too_long_loses_its_oldest_exchanges_whole(name: str, system: str) -> None:
    """What is left is the rendering of the newest exchanges alone, and it is the most that fits."""
    renderer = Renderer(tokenizer_of(name), system=system)
    whole = render(renderer, talk(*LONG))
    for kept in (6, 4, 2):
        expected = render(renderer, talk(*LONG[-kept:]))
        for room in (0, 3):
            cut = render(renderer, talk(*LONG), len(expected.ids) + room)
            assert (cut.ids, cut.mask) == (expected.ids, expected.mask)
            assert (cut.cut_turns, cut.cut_chars) == (8 - kept, 0)
        prompt = renderer.prompt(talk(*LONG[-kept:-1]))
        assert renderer.prompt(talk(*LONG[:-1]), len(prompt)) == prompt
    assert render(renderer, talk(*LONG), len(whole.ids)).cut_turns == 0


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_last_user_turn_is_cut_from_its_start_and_the_reply_never(name: str, system: str) -> None:
    renderer = Renderer(tokenizer_of(name), system=system)
    messages = talk("so", "so", "hello there 😀 again you", "Fine thanks")
    shortest = len(render(renderer, talk(" you", "Fine thanks")).ids)
    cut = render(renderer, messages, shortest)
    assert len(cut.ids) <= shortest
    assert cut.text == render(renderer, talk(" you", "Fine thanks")).text
    assert (cut.cut_turns, cut.cut_chars) == (2, len("hello there 😀 again"))
    assert [t.lstrip() for t in trained_texts(renderer, cut)] == ["Fine thanks" + END[name]]
    for room in range(shortest, len(render(renderer, messages).ids)):
        fitted = render(renderer, messages, room)
        assert len(fitted.ids) <= room
        assert "Fine thanks" + END[name] in fitted.text
        assert "Be kind." in fitted.text or not system
    assert renderer.render(messages, len(render(renderer, talk("", "Fine thanks")).ids) - 1) is None


def test_prompt_whose_system_message_fills_the_room_is_an_error() -> None:
    renderer = Renderer(tokenizer_of("llama3"), system="Be kind. " * 9)
    with pytest.raises(PersonaError, match="a prompt must fit in 20 tokens"):
        renderer.prompt(talk("so"), 20)


def test_turns_after_the_last_trained_reply_go_first() -> None:
    """They train nothing, and are counted."""
    renderer = Renderer(tokenizer_of("llama3"))
    needed = render(renderer, talk("so", "Fine"))
    cut = render(renderer, talk("so", "Fine", "you", "again", untrained=(3,)), len(needed.ids))
    assert (cut.ids, cut.mask, cut.cut_turns) == (needed.ids, needed.mask, 2)


def test_final_reply_survives_when_earlier_ones_are_context() -> None:
    """As for a preference pair: only the last reply is trained on."""
    renderer = Renderer(tokenizer_of("gemma"))
    cut = render(renderer, talk(*LONG, untrained=(1, 3, 5)), 30)
    assert trained_texts(renderer, cut) == ["so so<end_of_turn>"]
    assert cut.cut_turns > 0


def test_long_conversation_is_not_rendered_once_per_dropped_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tokenizer_of("llama3"))
    draws: list[int] = []
    original = Renderer._draw_as_is

    def counted(self: Renderer, system: str, turns: Any, asked: bool) -> Any:
        draws.append(len(turns))
        return original(self, system, turns, asked)

    monkeypatch.setattr(Renderer, "_draw_as_is", counted)
    cut = render(renderer, talk(*["so", "Fine"] * 100), 50)
    assert len(cut.ids) <= 50
    assert len(draws) <= 3


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


def test_truncation_left_over_in_the_tokenizer_cuts_nothing() -> None:
    tokenizer = wrap(byte_level(CHATML), tokenizer_of("qwen2.5").chat_template, "cut", eos_token="<|im_end|>")
    tokenizer("so so so", truncation=True, max_length=2)
    assert render(Renderer(tokenizer), GOLDEN).text == GOLDEN_TEXT["qwen2.5"]
    assert render(Renderer(tokenizer), GOLDEN).ids == render(Renderer(tokenizer_of("qwen2.5")), GOLDEN).ids


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
