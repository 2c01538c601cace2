"""What templates put between turns, over four families: what is appended is the whole talk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput
from params.prompt import Prompt
from tasks.policy.chat import Chat
from tasks.policy.turns import Turns
from tasks.prepare import nano

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "llama": (
        "{{ '<bos>' }}{% for m in messages %}{% set role = 'ipython' if m.role == 'tool' else m.role %}"
        "{{ '<|start|>' + role + '<|end|>\\n\\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}",
        "<|eot|>",
    ),
    "mistral": (
        "{{ '<bos>' }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + '<eos>' }}"
        "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
        "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}",
        "<eos>",
    ),
    "gemma": (
        "{{ '<bos>' }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else 'user' %}"
        "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<end_of_turn>",
    ),
    "nano": (nano.CHAT_TEMPLATE, "<eos>"),
}
MARKS = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<start_of_turn>", "<end_of_turn>"]
MARKS += ["[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
WORDS = st.text("abc 0123?\n", min_size=1, max_size=12).map(lambda text: f"a{text}z")


def chat(template: str, **options: Any) -> tuple[Chat, int]:
    words = nano.tokenizer()
    words.add_special_tokens({"additional_special_tokens": MARKS})
    words.chat_template, end = TEMPLATES.get(template, (template, "<eos>"))
    return Chat(words, Prompt(**options)), words.convert_tokens_to_ids(end)


@pytest.mark.parametrize("name", TEMPLATES)
@given(said=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), first=WORDS)
def test_appended_turns_are_the_whole_talk(name: str, said: list[tuple[str, str]], first: str) -> None:
    made, end = chat(name)
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    talk = [{"role": "user", "content": first}]
    (ids,) = made.ids([talk])
    known = list(ids)
    for answer, observation in said:
        known += [*made.tokenizer.encode(answer, add_special_tokens=False), end]
        message = {"role": "user", "content": observation}
        known += turns.between([message], end)
        talk += [{"role": "assistant", "content": answer}, message]
    assert known == list(made.ids([talk])[0])


@pytest.mark.parametrize("name", ["chatml", "llama", "mistral"])
def test_what_a_tool_says_is_written_as_the_template_has_it(name: str) -> None:
    made, end = chat(name)
    turns = Turns(made, [end], tools=True, keep_thinking=False)
    text = made.tokenizer.decode(turns.between([{"role": "tool", "name": "f", "content": "42"}], end))
    assert "42" in text
    assert any(word in text for word in ("tool", "ipython", "[TOOL_RESULTS]"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_said_to_the_model_holds_no_marks_of_the_template(name: str) -> None:
    made, end = chat(name)
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    hostile = turns.harmless("x" + "".join([*MARKS, "<eos>", "<bos>"]))
    ids = turns.between([{"role": "user", "content": hostile}], end)
    plain = turns.between([{"role": "user", "content": "x"}], end)
    special = set(made.tokenizer.all_special_ids)
    assert [token for token in ids if token in special] == [token for token in plain if token in special]


def test_a_template_that_rewrites_history_is_refused() -> None:
    last_only = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
        "{{ m.role + m.content + '<eos>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    made, end = chat(last_only)
    with pytest.raises(BadInput, match="rewrites what it wrote before"):
        Turns(made, [end], tools=False, keep_thinking=False)


def test_a_template_that_drops_thinking_is_refused_unless_asked_for() -> None:
    dropping = (
        "{% for m in messages %}{% set text = m.content %}{% if m.role == 'assistant' and not loop.last %}"
        "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{{ '<|start|>' + m.role + text + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}{# <think> #}"
    )
    made, _ = chat(dropping)
    end = made.tokenizer.convert_tokens_to_ids("<|end|>")
    with pytest.raises(BadInput, match="leaves out the thinking"):
        Turns(made, [end], tools=False, keep_thinking=False)
    Turns(made, [end], tools=False, keep_thinking=True)
