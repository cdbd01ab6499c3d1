"""Conversations through a chat template: with a model's tokenizer, or without one for the plan.

Finds out by trying what a template takes: a system turn, contents as parts, arguments as text.
Called by `chat`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbft.data.turns import Tool, Turn
from nbft.errors import DataError, Problem
from nbft.models.templates import compiled

Said = tuple[Sequence[Turn], Sequence[Tool]]
"""The turns of a conversation, and the tools that it may call."""

_LOOKS_AHEAD = re.compile(
    r"loop\.(last|length|revindex|nextitem)|messages\s*\||messages\[(?!0\])|namespace|\bset\b"
)
"""What a template needs to write a turn by what comes after it."""

_CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "b", "parameters": {}}}


class Template:
    """A chat template.

    Args:
        text: The template, in Jinja.
        special: Texts of the special tokens, which may end a turn.
    """

    def __init__(self, text: str, special: Iterable[str]) -> None:
        self.text = text
        self.special = tuple(sorted(filter(None, special), key=len, reverse=True))

    def __call__(self, conversations: Sequence[Said], *, asks: bool) -> list[str]:
        """Return conversations as text; with the generation prompt if `asks`."""
        return self._in_batches(conversations, asks=asks)

    def spans(self, conversations: Sequence[Said]) -> list[list[tuple[int, int]]] | None:
        """Return what the template's own {% generation %} tags mark; None without such tags."""
        return None

    def _render(
        self, conversations: list[list[Turn]], tools: Sequence[Tool], *, asks: bool, marked: bool
    ) -> list[Any]:
        """Return conversations with the same tools as text, or what tags mark in them."""
        raise NotImplementedError

    def _in_batches(
        self, conversations: Sequence[Said], *, asks: bool = False, marked: bool = False
    ) -> list[Any]:
        """Render those without tools together, which takes half the time."""
        how = {"asks": asks, "marked": marked}
        turns = [self._as_taken(one) for one, _ in conversations]
        plain = [n for n, (_, tools) in enumerate(conversations) if not tools]
        rendered = self._render([turns[n] for n in plain], (), **how) if plain else []
        found = dict(zip(plain, rendered, strict=True))
        for n, (_, tools) in enumerate(conversations):
            if n not in found:
                (found[n],) = self._render([turns[n]], tools, **how)
        return [found[n] for n in range(len(conversations))]

    def _as_taken(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return turns in the spelling that the template takes."""
        taken = list(turns)
        for n, turn in enumerate(taken):
            if "tool_calls" in turn and self.wants_text_arguments:
                taken[n] = _with_text_arguments(turn)
        return [_in_parts(turn) for turn in taken] if self.wants_parts else taken

    @property
    def may_change(self) -> bool:
        """Whether it could write an earlier turn differently once another is added."""
        return _LOOKS_AHEAD.search(self.text) is not None

    @functools.cached_property
    def wants_parts(self) -> bool:
        """Whether it takes contents as lists of parts, as those of models that see pictures do."""
        turn = {"role": "user", "content": "Is this written?"}
        return not self._writes([turn]) and self._writes([_in_parts(turn)])

    @functools.cached_property
    def wants_text_arguments(self) -> bool:
        """Whether it takes the arguments of a call as JSON text, as OpenAI writes them."""
        asked = {"role": "user", "content": "Is this written?"}
        called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        return not self._writes([asked, called], [_TOOL]) and self._writes(
            [asked, _with_text_arguments(called)], [_TOOL]
        )

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether it takes a system turn."""
        asked = {"role": "user", "content": "Is this written?"}
        return self._writes(self._as_taken([{"role": "system", "content": "b"}, asked]))

    @functools.cached_property
    def takes_greeting(self) -> bool:
        """Whether it asks for an answer that nothing is before."""
        return self._writes([], written="")

    def _writes(
        self, turns: list[Turn], tools: Sequence[Tool] = (), written: str = "Is this written?"
    ) -> bool:
        with contextlib.suppress(Exception):  # a template may raise anything
            (text,) = self._render([turns], tools, asks=True, marked=False)
            return written in text
        return False


class TokenizerTemplate(Template):
    """The chat template of a tokenizer.

    Args:
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.

    Raises:
        DataError: It has no chat template.
    """

    def __init__(self, tokenizer: Any, split: str = "train") -> None:
        if not tokenizer.chat_template:
            raise DataError(
                Problem(
                    f"data.{split}",
                    None,
                    'has "messages", but the model has no chat template.',
                    "Choose an instruct model, set model.chat_template_path, or give prompt and "
                    "completion.",
                )
            )
        self._tokenizer = tokenizer
        own = tokenizer.chat_template
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        super().__init__(
            "\n".join(own.values()) if isinstance(own, dict) else str(own),
            {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)},
        )

    def spans(self, conversations: Sequence[Said]) -> list[list[tuple[int, int]]] | None:
        """Return what the template's own {% generation %} tags mark; None without such tags."""
        if not re.search(r"\{%-?\s*generation\s*-?%\}", self.text):
            return None
        return self._in_batches(conversations, marked=True)

    def _render(
        self, conversations: list[list[Turn]], tools: Sequence[Tool], *, asks: bool, marked: bool
    ) -> list[Any]:
        if marked:
            from transformers.utils.chat_template_utils import render_jinja_template

            render: Any = render_jinja_template
            return render(  # type: ignore[no-any-return]
                conversations,
                tools=list(tools) or None,
                chat_template=self._tokenizer.get_chat_template(None, list(tools) or None),
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )[1]
        return self._tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            conversations,
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=asks,
        )


class PlainTemplate(Template):
    """A chat template without a tokenizer.

    Args:
        text: The template, in Jinja.
        tokens: Texts of special tokens by name, such as bos_token.
        special: Texts of all special tokens.
    """

    def __init__(self, text: str, tokens: Mapping[str, str], special: Iterable[str] = ()) -> None:
        super().__init__(text, {*tokens.values(), *special})
        self._tokens = tokens

    def _render(
        self, conversations: list[list[Turn]], tools: Sequence[Tool], *, asks: bool, marked: bool
    ) -> list[Any]:
        template = compiled(self.text)
        return [
            template.render(
                messages=[_with_aliases(turn) for turn in turns],
                tools=list(tools) or None,
                add_generation_prompt=asks,
                **self._tokens,
            )
            for turns in conversations
        ]


def _in_parts(turn: Turn) -> Turn:
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]}


def _with_text_arguments(turn: Turn) -> Turn:
    def written(call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call["function"]
        arguments = function["arguments"]
        if isinstance(arguments, str):
            return call
        text = json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": {**function, "arguments": text}}

    calls = [written(call) for call in turn.get("tool_calls", ())]
    return {**turn, "tool_calls": calls} if calls else turn


def _with_aliases(turn: Turn) -> Turn:
    """Name the reasoning of a turn in all the ways that templates do, as transformers does."""
    if reasoning := turn.get("reasoning_content"):
        return {"reasoning": reasoning, "thinking": reasoning, **turn}
    return turn
