"""How a problem is put to a model: the messages, the template that writes them, and where an answer ends."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from params.base import Config

PLAIN = "plain"
"""The name of the template for models that have none."""
RESERVED = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs"),
    }
)
"""Options of ``apply_chat_template`` itself, which no template reads."""
Text = Annotated[str, Field(min_length=1)]


class Prompt(Config):
    """What a model reads before its answer."""

    template: str = "{question}"
    """The user's message; ``{question}`` stands for the problem's text."""
    messages: Text | None = None
    """Column of the problems' source that holds the messages, the last one the user's, in place of the
    template and the system message; null: none."""
    system: str | None = None
    """The system message before it; null: none."""
    examples: Annotated[int, Field(ge=0)] = 0
    """Solved problems before it, as turns of user and assistant, drawn from the training set by the seed. A
    problem is never its own example."""
    example_answer: str = "{solution}"
    """What the assistant says in them; ``{answer}`` stands for the right answer, ``{solution}`` for the
    problem's first demonstration, or the right answer where it has none."""
    chat_template: Text | None = None
    """What writes the messages: ``plain`` (``Question: ... Answer:``), or a file that holds a Jinja template;
    null: the model's own, and of a base model that has none, the plain one."""
    template_patch: Text | None = None
    """How that template is changed so that it only appends when a talk goes on, by the name of a family of
    models: ``qwen3``, ``deepseek-r1``; null: not at all."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of that template, such as ``enable_thinking: false``."""
    stop: tuple[Text, ...] | None = None
    """Texts that end a response, besides its end tokens. What the judge reads ends before it; null: none,
    and with the plain template the beginning of a next question."""
    thinking: tuple[Text, Text] | None = ("<think>", "</think>")
    """What opens and closes a response's thinking, which the judge does not read and whose length is told
    apart; null: nothing is told apart."""

    @model_validator(mode="after")
    def _readable(self) -> Prompt:
        if "{question}" not in self.template:
            raise ValueError("task.prompt.template must hold {question}")
        if self.examples and not ("{answer}" in self.example_answer or "{solution}" in self.example_answer):
            raise ValueError("task.prompt.example_answer must hold {answer} or {solution}")
        if taken := sorted(RESERVED & self.chat_template_kwargs.keys()):
            raise ValueError(
                f"task.prompt.chat_template_kwargs: '{taken[0]}' is no variable of a template; expected one "
                "that it reads, such as enable_thinking"
            )
        return self
