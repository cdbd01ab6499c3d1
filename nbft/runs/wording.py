"""How a message to a run becomes what its model reads: through a chat template, like a row, or as text.

Called by `chat`. The rows are asked as in the training, token for token.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

from nbft.config import Config
from nbft.data.examples import Example, load_examples, make_example
from nbft.errors import DataError, NbftError
from nbft.formatting import one_line
from nbft.models.templates import NAMES, template_of

CHAT, ROWS, TEXT = "chat", "rows", "text"
"""How a message is asked: through the chat template, as a row of the run's dataset, or as it is."""

_SHOWN_TEMPLATE_CHARS = 60


class Wording:
    """How the messages to a run become what its model reads.

    Args:
        config: The config of the run.
        tokenizer: The tokenizer of the model.

    Attributes:
        ways: The possible templates, each with its title.
        usual: The one that is like the rows that the run was trained on.
        remark: What to know about it; a sentence, or "".
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._part: Any = None
        self._column, self.remark = "", ""
        self.ways = {CHAT: "chat template of the model"} if tokenizer.chat_template else {}
        was_chat = self._read_rows()
        self.ways[TEXT] = "plain text"
        self.ways |= {name: f"chat template {name}" for name in NAMES}
        if CHAT in self.ways and (was_chat or ROWS not in self.ways):
            self.usual = CHAT
        else:
            self.usual = ROWS if ROWS in self.ways else TEXT
        if not tokenizer.chat_template:
            how = "like its rows" if self.usual == ROWS else "as plain text"
            self.remark = f"The model has no chat template: each message is asked alone, {how}."

    def _read_rows(self) -> bool:
        """Find out how rows become prompts; return whether they are conversations."""
        try:
            self._part = load_examples(self._config, "train", is_strict=False)[0].parts[0]
            example: Example = self._part.example(0)
            row = self._part.rows[int(self._part.numbers[0])]
        except (NbftError, OSError):
            return False
        if example.messages:
            return True
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        places = {
            name: example.prompt.find(value.strip())
            for name, value in texts.items()
            if value.strip() and value.strip() in example.prompt
        }
        if not places:
            return False
        self._column = min(places, key=lambda name: places[name])
        with contextlib.suppress(NbftError):
            words = self._rendered("…").prompt
            if words.strip() != "…":
                shown = one_line(words.replace("\n", " ⏎ "), _SHOWN_TEMPLATE_CHARS)
                self.ways = {**self.ways, ROWS: f"like its rows: {shown}"}
        return False

    def _rendered(self, message: str) -> Example:
        return make_example(self._part, {self._column: message}, "message")

    def read(
        self, way: str, message: str, history: Sequence[tuple[str, str]], system: str
    ) -> tuple[list[int], str, list[dict[str, str]]]:
        """Return what the model reads: token ids, text and, with a chat template, the turns.

        Args:
            way: One of `ways`.
            message: The new message.
            history: Earlier messages with their answers; only a chat template takes them.
            system: System turn; "" for none.

        Raises:
            DataError: The chat template refuses the conversation.
        """
        from nbft.data.chat import RefusedConversationError
        from nbft.data.tokens import encode, prompt_of
        from nbft.evaluate.prompts import read_prompts

        if way in (ROWS, TEXT):
            asked = self._rendered(message) if way == ROWS else message
            (one,) = read_prompts([asked], self._config, self._tokenizer)
            return one.ids, one.text, []
        tokenizer = self._tokenizer
        if way != CHAT:
            tokenizer = copy.copy(tokenizer)
            tokenizer.chat_template = template_of(way)
        turns = [{"role": "system", "content": system}] if system.strip() else []
        for asked, answered in history:
            turns.append({"role": "user", "content": asked})
            turns.append({"role": "assistant", "content": answered})
        turns.append({"role": "user", "content": message})
        earlier = [{**t, "trained": False} if t["role"] == "assistant" else t for t in turns]
        example = Example(messages=(*earlier, {"role": "assistant", "content": "ok"}))
        try:
            (encoded,) = encode([example], tokenizer)
        except RefusedConversationError as error:
            raise DataError(f"The message cannot be asked: {error.why} {error.fix}") from None
        ids = prompt_of(encoded).ids
        return ids, tokenizer.decode(ids, skip_special_tokens=False), turns
