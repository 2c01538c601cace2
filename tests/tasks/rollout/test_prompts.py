"""Prompts: what a model is asked, how its responses end, and what of them the judge reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput
from params.load import compose
from params.prompt import Prompt
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, read_table
from tasks.engines.base import Response
from tasks.policy.chat import PLAIN_STOP
from tasks.prepare import nano
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.prompts import Prompts
from tasks.rollout.rollout import rollout
from tasks.rollout.thinking import Reader
from tasks.update.update import update
from tests.conftest import RunStage

WORDS = nano.tokenizer()
ROWS = [
    {"problem_id": f"p{n}", "question": f"{n}+{n}", "answer": str(2 * n), "level": 1, "source": "here"}
    for n in range(6)
]
TRAIN = pa.Table.from_pylist(ROWS, schema=PROBLEMS)


def without_template() -> Any:
    words = nano.tokenizer()
    words.chat_template = None
    return words


def written(tokenizer: Any, row: int = 0, seed: int = 0, **options: Any) -> str:
    made = Prompts(Prompt(**options), tokenizer, TRAIN, seed)
    return str(tokenizer.decode(made.encode([ROWS[row]])[0]))


def test_the_messages_are_the_systems_the_examples_and_the_question() -> None:
    said = written(without_template(), row=3, system="Add.", template="{question}=", examples=2)
    assert said.startswith("Add.\n\nQuestion: ")
    assert said.endswith("Question: 3+3=\nAnswer:")
    shown = [line for line in said.splitlines() if line.startswith("Question")][:-1]
    assert len(shown) == 2
    assert "Question: 3+3=" not in shown
    for line in shown:
        n = int(line.split()[1].split("+")[0])
        assert f"{line}\nAnswer: {2 * n}\n\n" in said


def test_examples_come_from_the_seed_and_are_never_the_problem_itself() -> None:
    tokenizer = without_template()
    drawn = {seed: [written(tokenizer, row, seed, examples=3) for row in range(6)] for seed in range(8)}
    again = [written(tokenizer, row, 0, examples=3) for row in range(6)]
    assert drawn[0] == again
    assert len({texts[0] for texts in drawn.values()}) > 1
    for texts in drawn.values():
        for row, text in enumerate(texts):
            assert text.count(f"Question: {row}+{row}\n") == 1
            assert text.count("Question:") == 4


def test_too_few_problems_for_examples_are_told() -> None:
    with pytest.raises(BadInput, match=r"examples: 6, of 6 training problems; expected at least 7"):
        Prompts(Prompt(examples=6), WORDS, TRAIN, 0)


def test_a_model_without_a_template_gets_the_plain_one_and_its_stop() -> None:
    made = Prompts(Prompt(), without_template(), TRAIN, 0)
    assert made.chat.plain
    assert made.chat.stop == PLAIN_STOP
    assert Prompts(Prompt(stop=()), without_template(), TRAIN, 0).chat.stop == ()
    own = Prompts(Prompt(), WORDS, TRAIN, 0)
    assert not own.chat.plain
    assert own.chat.stop == ()
    assert Prompts(Prompt(chat_template="plain"), WORDS, TRAIN, 0).chat.plain


def test_a_template_of_ones_own_and_its_variables(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ 'T' if enable_thinking else 'N' }}"
    )
    for value, end in ((True, "T"), (False, "N")):
        said = written(WORDS, chat_template=str(path), chat_template_kwargs={"enable_thinking": value})
        assert said == f"[0+0]{end}"
    with pytest.raises(BadInput, match="reads no 'enable_thinkin'; expected variables that it reads"):
        written(WORDS, chat_template=str(path), chat_template_kwargs={"enable_thinkin": True})


BAD = {
    "template=hello": "task.prompt.template must hold {question}",
    "chat_template_kwargs={tokenize: false}": "'tokenize' is no variable of a template",
    "examples=-1": "task.prompt.examples",
    "sytem=Add.": "task.prompt.sytem: unknown key; did you mean 'system'?",
}


@pytest.mark.parametrize("setting", BAD)
def test_what_is_wrong_with_a_prompt_is_one_line(setting: str) -> None:
    with pytest.raises(BadInput) as caught:
        compose("nano", "sums", "grpo", [f"prompt.{setting}"])
    assert BAD[setting] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_template_is_one_line(tmp_path: Path) -> None:
    missing, other = tmp_path / "none.jinja", tmp_path / "other.jinja"
    other.write_text("hello")
    for path, says in ((missing, "no such file"), (other, "reads no messages")):
        with pytest.raises(BadInput, match=says):
            written(WORDS, chat_template=str(path))


def test_a_token_of_beginning_stands_once() -> None:
    words = nano.tokenizer()
    words.chat_template = "<bos><bos>{{ messages[0].content }}"
    ids = Prompts(Prompt(), words, TRAIN, 0).encode(ROWS[:1])[0]
    assert ids[0] == words.bos_token_id
    assert ids.count(words.bos_token_id) == 1


def reader(stop: tuple[str, ...] = (), **options: Any) -> Reader:
    return Reader(WORDS, Prompt(**options), stop)


def ids_of(text: str) -> list[int]:
    return list(WORDS.encode(text, add_special_tokens=False))


THOUGHT = {
    "<think>1+1 is 2</think>\n2": ("\n2", 23),
    "<think>1+1 is 2": ("", 15),
    "2": ("2", None),
    "a</think>b</think>c": ("c", 18),
    "so <think> is a tag": ("so <think> is a tag", None),
}


@pytest.mark.parametrize("text", THOUGHT)
def test_the_judge_reads_what_follows_the_thinking(text: str) -> None:
    answer, tokens = THOUGHT[text]
    found = reader().read(ids_of(text), opened=False)
    assert (found.answer, found.thinking_tokens) == (answer, tokens)
    assert reader(thinking=None).read(ids_of(text), opened=False).answer == text


def test_a_prompt_may_open_the_thinking() -> None:
    one = reader()
    assert one.opens(ids_of("A: <think>\n"))
    assert not one.opens(ids_of("Think within <think> tags. A: "))
    assert one.read(ids_of("2</think>4"), opened=True).answer == "4"
    unfinished = one.read(ids_of("2 and 2"), opened=True)
    assert (unfinished.answer, unfinished.thinking_tokens) == ("", 7)


@given(st.text("ab\n", max_size=12), st.text("ab\n", max_size=12), st.sampled_from(["\n\n", "ab", "b\na"]))
def test_a_response_ends_with_the_token_that_completes_a_stop(before: str, after: str, stop: str) -> None:
    ids = tuple(ids_of(before + stop + after))
    made = Response(ids, (0.0,) * len(ids), "length", ids, (0.0,) * len(ids), (1.0,) * len(ids))
    one = reader((stop,))
    cut = one.cut(made)
    text = str(WORDS.decode(cut.token_ids))
    assert text.endswith(stop)
    assert text.count(stop) == 1 or stop in text[1:]
    assert stop not in text[:-1]
    assert cut.finish_reason == "stop"
    assert len(cut.logp) == len(cut.top_ids) == len(cut.entropy) == len(cut.token_ids)
    assert one.read(cut.token_ids, opened=False).answer == text.removesuffix(stop)
    assert one.ends is not None
    assert next(n for n in range(1, len(ids) + 1) if one.ends(ids[:n])) == len(cut.token_ids)
    assert one.cut(cut) == cut


def parameters(folder: Path, *more: str) -> Params:
    small = [
        *(
            "task.train_count=12",
            "task.held_out_count=4",
            "rollout.problems_per_round=2",
            "model.context=192",
        ),
        *("rollout.max_response_tokens=24", "model.dtype=float32", "engine.name=transformers", *more),
    ]
    return compose(str(folder), "arithmetic", "grpo", small)


def test_a_base_model_trains_with_the_plain_template_and_ends_at_its_stop(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_model.path.iterdir():
        if path.name != "chat_template.jinja":
            (folder / path.name).write_bytes(path.read_bytes())
    params = parameters(folder, "prompt.examples=1", "prompt.stop=[a, '7']")
    base = run_stage(make_model, params)
    problems = run_stage(make_problems, params)
    made = run_stage(rollout, params, model=base, problems=problems)
    answers = read_table(made.file("rollouts.parquet")).to_pylist()
    stopped = 0
    for row in answers:
        text, prompt = (
            WORDS.decode(row["response_ids"], skip_special_tokens=True),
            WORDS.decode(row["prompt_ids"]),
        )
        assert prompt.count("Question: ") == 2
        assert prompt.endswith("\nAnswer:")
        assert not {"a", "7"} & set(text[:-1])
        if set(text) & {"a", "7"}:
            assert row["finish_reason"] == "stop"
            stopped += 1
    assert stopped
    # an engine that cannot look at texts samples on, and the answers are the same
    free = run_stage(
        rollout, parameters(folder, "prompt.examples=1", "prompt.stop=[]"), model=base, problems=problems
    )
    for row, whole in zip(answers, read_table(free.file("rollouts.parquet")).to_pylist(), strict=True):
        assert whole["response_ids"][: len(row["response_ids"])] == row["response_ids"]
    assert run_stage(update, params, model=base, rollout=made).file("metrics.json").is_file()


TALK = [{"role": "system", "content": "Add."}, {"role": "user", "content": "What is 1+1?"}]


def with_columns(messages: Any) -> dict[str, Any]:
    return {**ROWS[1], "columns": json.dumps({"prompt": messages, "other": 1})}


def test_messages_come_from_a_column_and_examples_stand_between() -> None:
    made = Prompts(Prompt(messages="prompt"), without_template(), TRAIN, 0)
    said = str(WORDS.decode(made.encode([with_columns(TALK)])[0]))
    assert said == "Add.\n\nQuestion: What is 1+1?\nAnswer:"
    shown = Prompts(Prompt(messages="prompt", examples=1), without_template(), TRAIN, 0)
    said = str(WORDS.decode(shown.encode([with_columns(TALK)])[0]))
    assert said.startswith("Add.\n\nQuestion: ")
    assert said.count("Question: ") == 2
    assert said.endswith("Question: What is 1+1?\nAnswer:")


NO_TALK: dict[str, Any] = {
    "a text": "hello",
    "nothing": [],
    "no role": [{"content": "hello"}],
    "the assistant last": [*TALK, {"role": "assistant", "content": "2"}],
}


@pytest.mark.parametrize("name", NO_TALK)
def test_a_column_without_messages_is_one_line(name: str) -> None:
    made = Prompts(Prompt(messages="prompt"), WORDS, TRAIN, 0)
    with pytest.raises(BadInput, match=r"'prompt' of problem p1: .*expected messages with role and content"):
        made.encode([with_columns(NO_TALK[name])])
    other = Prompts(Prompt(messages="promt"), WORDS, TRAIN, 0)
    with pytest.raises(BadInput, match="no such column; did you mean 'prompt'"):
        other.encode([with_columns(TALK)])


def test_examples_are_worked_out_where_there_is_a_demonstration() -> None:
    rows = [{**row, "demonstrations": [f"It is {row['answer']}."]} for row in ROWS]
    train = pa.Table.from_pylist(rows, schema=PROBLEMS)
    for form, said in (("{solution}", "It is "), ("{answer}", "Answer: ")):
        made = Prompts(Prompt(examples=2, example_answer=form), without_template(), train, 0)
        text = str(WORDS.decode(made.encode(ROWS[:1])[0]))
        assert text.count("It is ") == (2 if form == "{solution}" else 0)
        assert said in text
