"""Where personal data stood there is nothing to learn to say."""

from __future__ import annotations

import pytest

from mlx_persona.schema import PLACEHOLDERS
from mlx_persona.tokens.render import Renderer
from tests.tokens.kit import END, FIVE, render, talk, tokenizer_of, trained_texts


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("mask_prompt", [True, False])
def test_placeholders_are_no_targets_and_all_around_them_is(name: str, mask_prompt: bool) -> None:
    renderer = Renderer(tokenizer_of(name), mask_prompt=mask_prompt)
    rendered = render(renderer, talk("so [NAME_1]", "ask [NAME_12], or [EMAIL_3]. [name_1] [NAME_] [NAME1]"))
    said = "".join(trained_texts(renderer, rendered))
    assert "[NAME_12]" not in said
    assert "[EMAIL_3]" not in said
    assert "NAME_1" not in said
    after = said.split("ask")[1].split(END[name])[0]
    assert after.replace(" ", "") == ",or.[name_1][NAME_][NAME1]"
    assert END[name] in said


def test_every_type_has_its_placeholder() -> None:
    renderer = Renderer(tokenizer_of("smollm2"))
    texts = [f"so [{kind}_7] you" for kind in PLACEHOLDERS]
    for text in texts:
        rendered = render(renderer, talk("hello", text))
        assert "".join(trained_texts(renderer, rendered)) in ("so you<|im_end|>", "so  you<|im_end|>")
