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
FAMILIES = tuple(TEMPLATES)
MARKS = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<start_of_turn>", "<end_of_turn>"]
MARKS += ["[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
WORDS = st.text("abc 0123?\n", min_size=1, max_size=12).map(lambda text: f"a{text}z")


def chat(template: str, **options: Any) -> tuple[Chat, int]:
    words = nano.tokenizer()
    words.add_special_tokens({"additional_special_tokens": MARKS})
    words.chat_template, end = TEMPLATES.get(template, (template, "<eos>"))
    return Chat(words, Prompt(**options)), words.convert_tokens_to_ids(end)


@pytest.mark.parametrize("name", FAMILIES)
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
        known += turns.between([message], [end])
        talk += [{"role": "assistant", "content": answer}, message]
    assert known == list(made.ids([talk])[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_that_a_text_ended_is_closed_as_the_template_has_it(name: str) -> None:
    """The text stands in what follows, too: nothing of that is left out."""
    made, end = chat(name, stop=["```\n", "\n"])
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    talk = [{"role": "user", "content": "ask"}]
    said, message = "```sql\nx\n```\n", {"role": "user", "content": "one\ntwo"}
    spoken = made.tokenizer.encode(said, add_special_tokens=False)
    known = [*made.ids([talk])[0], *spoken, *turns.between([message], spoken)]
    whole = made.ids([[*talk, {"role": "assistant", "content": said.strip()}, message]])[0]
    text, expected = made.tokenizer.decode(known), made.tokenizer.decode(whole)
    assert text.replace("```\n", "```") == expected


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("4\nQuestion:", " one\n\ntwo\nQuestion: three\nAnswer:"),
        ("4\n\n", "Question: one\n\ntwo\nQuestion: three\nAnswer:"),
        ("4 ###", "\n\nQuestion: one\n\ntwo\nQuestion: three\nAnswer:"),
    ],
)
def test_only_the_text_that_ended_a_turn_is_left_out_of_what_follows(said: str, more: str) -> None:
    """Not another that ends turns, and none that stands in what the model is to read."""
    made, end = chat("nano", chat_template="plain", stop=["\nQuestion:", "\n\n", "###"])
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    spoken = made.tokenizer.encode(said, add_special_tokens=False)
    message = {"role": "user", "content": "one\n\ntwo\nQuestion: three"}
    assert made.tokenizer.decode(turns.between([message], spoken)) == more


@pytest.mark.parametrize("name", ["chatml", "llama", "mistral"])
def test_what_a_tool_says_is_written_as_the_template_has_it(name: str) -> None:
    made, end = chat(name)
    turns = Turns(made, [end], tools=True, keep_thinking=False)
    text = made.tokenizer.decode(turns.between([{"role": "tool", "name": "f", "content": "42"}], [end]))
    assert "42" in text
    assert any(word in text for word in ("tool", "ipython", "[TOOL_RESULTS]"))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_said_to_the_model_holds_no_marks_of_the_template(name: str) -> None:
    made, end = chat(name)
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    hostile = turns.harmless("x" + "".join([*MARKS, "<eos>", "<bos>"]))
    ids = turns.between([{"role": "user", "content": hostile}], [end])
    plain = turns.between([{"role": "user", "content": "x"}], [end])
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


STRIPPED = {
    "qwen3": (
        "{%- set ns = namespace(last_query_index=0) %}{%- for message in messages %}"
        "{%- if message.role == 'user' %}{%- set ns.last_query_index = loop.index0 %}{%- endif %}"
        "{%- endfor %}{%- for message in messages %}"
        "{%- set content = message.content %}{%- if message.role == 'assistant' %}"
        "{%- set thought = '' %}{%- if '</think>' in content %}"
        "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{%- if loop.index0 > ns.last_query_index and thought %}"
        "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought + '\\n</think>\\n\\n' + content }}"
        "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
        "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}",
        "<|im_end|>",
    ),
    "deepseek-r1": (
        "{{ '<bos>' }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{% set content = message['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ '<｜Assistant｜>' + content + '<eos>' }}"
        "{% else %}{{ '<｜User｜>' + message['content'] }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
        "<eos>",
    ),
}
TEMPLATES |= STRIPPED
CASES = [("qwen3", {}), ("qwen3", {"chat_template_kwargs": {"enable_thinking": False}}), ("deepseek-r1", {})]


@pytest.mark.parametrize(("name", "options"), CASES)
@given(
    said=st.lists(st.tuples(WORDS, WORDS, WORDS, st.booleans()), min_size=1, max_size=3),
    system=st.one_of(st.none(), WORDS),
)
def test_a_patched_template_appends_to_thinking(
    name: str, options: dict[str, Any], said: list[tuple[str, str, str, bool]], system: str | None
) -> None:
    """Refused without, with the patch that mends it; with it, what is appended is the whole talk."""
    refused, end = chat(name, **options)
    with pytest.raises(BadInput, match=f"expected --set task.prompt.template_patch={name}$"):
        Turns(refused, [end], tools=False, keep_thinking=False)
    made, _ = chat(name, template_patch=name, **options)
    turns = Turns(made, [end], tools=False, keep_thinking=False)
    talk = [{"role": "system", "content": system}] if system else []
    talk += [{"role": "user", "content": "1 + 1"}]
    assert made.ids([talk]) == refused.ids([talk])
    known = list(made.ids([talk])[0])
    for thought, answer, observation, thinks in said:
        whole = f"<think>\n{thought}\n</think>\n\n{answer}" if thinks else answer
        known += [*made.tokenizer.encode(whole, add_special_tokens=False), end]
        message = {"role": "user", "content": observation}
        known += turns.between([message], [end])
        talk += [{"role": "assistant", "content": whole}, message]
    assert known == list(made.ids([talk])[0])
    assert made.template


def test_a_patch_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(BadInput, match="did you mean 'qwen3'"):
        chat("qwen3", template_patch="qwen")
    with pytest.raises(BadInput, match="does not look for </think>"):
        chat("chatml", template_patch="qwen3")
