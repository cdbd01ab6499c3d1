"""The rewards of a config as functions that say in a sentence what is wrong with them.

A reward is called as TRL calls it: with `prompts`, `completions` and every column of the rows, each a
list with an item for each completion. Prompts and completions are texts, or chat messages where the
rows are conversations. `references` holds the wanted answers as texts. Called by `nbft.training`,
`nbft.plan` and `nbft.rewards.trying`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.data.chat import answers
from nbft.data.examples import Example, load_function
from nbft.data.turns import text_of
from nbft.errors import ConfigError, NbftError, Problem
from nbft.formatting import count
from nbft.methods.grpo import reward_names

_SHOWN_CHARACTERS = 200


class RewardError(NbftError):
    """A reward failed, or returned no number for an answer."""


@dataclass(frozen=True)
class LoadedReward:
    """A reward that can be called.

    Attributes:
        name: Its name in charts and tables.
        weight: What it is multiplied with.
        setting: The setting that names it, by its dotted path.
        written: As the setting names it.
        function: What is called.
        options: Its keyword arguments.
    """

    name: str
    weight: float
    setting: str
    written: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        """Its name, as TRL asks for it."""
        return self.name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        """Return the reward of each completion.

        Args:
            prompts: Texts, or lists of messages.
            completions: The same.
            **columns: `references` and the columns of the rows, a list each; what the function does
                not take is left out.

        Raises:
            RewardError: It failed, or returned something else than a number for each completion.
        """
        given = self._accepted({"prompts": prompts, "completions": completions, **columns})
        try:
            rewards = self.function(**given)
        except NbftError:
            raise
        except Exception as error:
            about = _quoted(prompts, completions, self._culprit(given, len(completions)))
            said = " ".join(str(error).split())  # one line, whatever a library wrote
            why = f"failed with {type(error).__name__}: {said}, for {about}."
            raise self._error(why) from error
        rewards = _listed(rewards)
        if isinstance(rewards, list) and len(rewards) == len(completions):
            return self._numbers(rewards, prompts, completions)
        kind = "None" if rewards is None else type(rewards).__name__
        returned = f"{kind} instead of a list with a number"
        if isinstance(rewards, list):
            returned = count(len(rewards), "number")
        about = _quoted(prompts, completions, self._unscored(given, len(completions)))
        wanted = count(len(completions), "completion")
        raise self._error(f"returned {returned} for {wanted}, among them {about}.")

    def _accepted(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that the function takes."""
        given |= self.options
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return given
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return given
        taken = {p.name for p in parameters}
        return {name: value for name, value in given.items() if name in taken}

    def _alone(self, given: Mapping[str, Any], completions: int, number: int) -> Any:
        """Return what the function returns for one of the completions alone."""

        def alone(value: Any) -> Any:
            is_column = isinstance(value, (list, tuple)) and len(value) == completions
            return [value[number]] if is_column else value

        return self.function(**{n: v if n in self.options else alone(v) for n, v in given.items()})

    def _culprit(self, given: Mapping[str, Any], completions: int) -> int:
        """Return the number of the first completion that the function fails with on its own."""
        for number in range(completions):
            try:
                self._alone(given, completions, number)
            except Exception:
                return number
        return 0

    def _unscored(self, given: Mapping[str, Any], completions: int) -> int:
        """Return the number of the first completion that gets no number, or several, on its own."""
        for number in range(completions):
            try:
                rewards = _listed(self._alone(given, completions, number))
            except Exception:
                return number
            if not isinstance(rewards, list) or len(rewards) != 1:
                return number
        return 0

    def _numbers(
        self, rewards: Sequence[Any], prompts: Sequence[Any], completions: Sequence[Any]
    ) -> list[float]:
        """Return rewards as floats."""
        for number, reward in enumerate(rewards):
            if not _is_number(reward):
                about = _quoted(prompts, completions, number)
                raise self._error(f"returned {reward!r}, which is no number, for {about}.")
        return [float(reward) for reward in rewards]

    def _error(self, why: str) -> RewardError:
        fix = "It must return a list with one number for each completion."
        return RewardError(Problem(self.setting, self.written, why, fix))


def _is_number(reward: Any) -> bool:
    """Whether a reward is a finite number that fits into a float."""
    try:
        return isinstance(reward, Real) and math.isfinite(reward)
    except OverflowError:
        return False


def _listed(rewards: Any) -> Any:
    """Return an array, a tensor or a tuple as a list; other values as they are."""
    if hasattr(rewards, "tolist"):
        rewards = rewards.tolist()
    return list(rewards) if isinstance(rewards, tuple) else rewards


def _quoted(prompts: Sequence[Any], completions: Sequence[Any], number: int) -> str:
    """Quote a completion and its prompt."""
    prompt, completion = text(prompts[number]), text(completions[number])
    return f"the completion “{_short(completion)}” to the prompt “{_short(prompt)}”"


def _short(words: str) -> str:
    words = words.strip()
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[:_SHOWN_CHARACTERS]}…"


def text(given: Any) -> str:
    """Return a prompt or a completion as text: of messages, the last.

    >>> text([{"role": "assistant", "content": "Hi."}]), text("Hi.")
    ('Hi.', 'Hi.')
    """
    if isinstance(given, str):
        return given
    return text_of(given[-1]) if given else ""


def load_rewards(config: Config, folder: Path | None = None) -> list[LoadedReward]:
    """Return the rewards of a config.

    Args:
        config: Its section `grpo` names them.
        folder: Folder of the config file, for relative paths.

    Raises:
        ConfigError: There is no such key, or an option is not one of the reward.
        DataError: There is no such file or function, or nobody has consented to running it.
    """
    names = reward_names(config)
    loaded = []
    for number, reward in enumerate(config.grpo.rewards):
        setting, written = f"grpo.rewards[{number}].function", reward.function
        if written in registry.rewards:
            function = registry.rewards.get(written)
        elif ":" in written:
            function = load_function(written, setting, folder, is_own=config.is_own)
        else:
            why, fix, _ = registry.rewards.unknown(written)
            raise ConfigError(Problem(setting, written, why, fix))
        _check_options(reward.options, function, f"grpo.rewards[{number}].options")
        loaded.append(
            LoadedReward(names[number], reward.weight, setting, written, function, reward.options)
        )
    return loaded


def _check_options(options: Mapping[str, Any], function: Any, setting: str) -> None:
    """Raise where a function does not take an option, or lacks one."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    own = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [p.name for p in own]
    has_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    is_ready = function.__module__.startswith("nbft.rewards.")
    for name in options:
        if name not in parameters and (is_ready or not has_any):
            fix = f"It takes {', '.join(known)}." if known else "It takes none."
            raise ConfigError(Problem(setting, dict(options), f"has no option {name}.", fix))
    missing = [p.name for p in own if p.default is p.empty and p.name not in options]
    if is_ready and missing:
        why = f"lacks {missing[0]}, without which {function.__name__} cannot score."
        raise ConfigError(Problem(setting, dict(options), why, f"Add {missing[0]}."))


def asked_of(example: Example, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reward is given of one example: prompt, wanted answer and columns of its row.

    Args:
        example: The example.
        row: The row that it is made of.
    """
    prompt: Any = example.prompt
    reference = example.completion.strip()
    if example.messages:
        last = answers(example.messages)[-1]
        prompt = [dict(turn) for turn in example.messages[:last]]
        reference = text_of(example.messages[last]).strip()
    columns = {name: value for name, value in row.items() if name not in _TAKEN}
    return {**columns, "prompt": prompt, "references": reference}


_TAKEN = ("prompt", "completion", "completion_ids", "prompts", "completions")
"""Columns that TRL gives to no function, or that would stand for its own arguments."""
