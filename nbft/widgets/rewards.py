"""The rewards of a config, each with its weight and options, and what they give the base model.

Trying them runs on a thread, as the doctor does; only the main thread touches widgets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft import registry
from nbft.config import Config, Setting
from nbft.config.grpo import Reward
from nbft.errors import NbftError
from nbft.formatting import count
from nbft.pages import rewarded as page
from nbft.rewards.table import RewardTable
from nbft.runs.trying import try_rewards
from nbft.widgets.background import Task
from nbft.widgets.fields import read, write
from nbft.widgets.kernel import call_soon, is_main_thread
from nbft.widgets.kit import Kit
from nbft.widgets.tree import fields

_ABOUT = (
    "<p>The model answers each prompt several times, and learns from the answers with the higher "
    "reward. A function of yours is written path/to/file.py:function.</p>"
)
_TRIED = "Let the base model answer a few rows, and show what each reward gives every answer"
_PARTS = ("function", "weight", "options")


class RewardEditor:
    """The rewards as rows of fields, with a button that tries them.

    Args:
        config: Returns the config as it is now.
        on_change: Called with the rewards as a list of settings, after a change.
        refuses: Asked before a change; True if the config cannot be changed now, which whoever is
            asked says.
        kit: Makes the widgets.

    Attributes:
        widget: The widget to be shown.
        table: The answers of the last trial; None before it.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        on_change: Callable[[list[dict[str, Any]]], None],
        *,
        refuses: Callable[[], bool] = lambda: False,
        kit: Kit | None = None,
    ) -> None:
        self._kit = kit = kit or Kit()
        self._config, self._on_change, self._refuses = config, on_change, refuses
        self._turn = 0  # grows with each trial; earlier ones are ignored
        self._rows: list[dict[str, Any]] = []
        self.table: RewardTable | None = None
        title = kit.html(f'<h3 style="margin: 6px 0 4px">Rewards</h3>{_ABOUT}')
        self._list = kit.slot("nbft-rewards")
        self._try = self._button("Try the rewards", _TRIED, self.try_them, "nbft-push")
        self._state = kit.html("")
        self._shown = kit.html("")
        buttons = kit.row(
            self._button("Add a reward", "Add a reward to the list", self._add), self._try
        )
        children = (title, self._list, buttons, self._state, self._shown)
        self.widget = kit(ipywidgets.VBox, "nbft-reward-editor", children=children)
        self.show()

    def show(self) -> None:
        """Show the rewards of the config, unless they are shown already."""
        rewards = [one.model_dump(mode="json") for one in self._config().grpo.rewards]
        if rewards == self._rows and self._list.children:
            return
        self._rows = rewards
        self._list.show(self._reward_rows)

    def _reward_rows(self, kit: Kit) -> Iterator[Any]:
        if not self._rows:
            yield kit.html("<p>No reward yet.</p>")
        for number, reward in enumerate(self._rows):
            controls = [self._control(kit, number, part, reward[part]) for part in _PARTS]
            remove = functools.partial(self._remove, number)
            about = f"Remove reward {number + 1}, {reward['function']}"
            controls.append(self._button("Remove", about, remove, kit=kit))
            yield kit.row(*controls, css="nbft-row nbft-reward")

    def _control(self, kit: Kit, number: int, part: str, value: Any) -> Any:
        """Return the control of a part of a reward; it reports what is typed."""
        setting = _setting(part)
        label = f"{'Reward' if part == 'function' else setting.label} {number + 1}"
        about = {"description": label, "continuous_update": False, "tooltip": setting.help}
        kind = ipywidgets.Text
        if part == "function":
            kind, about["options"] = ipywidgets.Combobox, registry.rewards.keys()
        control = kit(kind, "nbft-control", value=write(value), **about)

        def changed(change: dict[str, Any]) -> None:
            self._rows[number][part] = read(setting, change["new"])
            self._take()

        control.observe(changed, "value")
        return control

    def _add(self) -> None:
        used = {reward["function"] for reward in self._rows}
        free = [key for key in registry.rewards if key not in used]
        new = Reward(function=free[0] if free else "")
        self._rows = [*self._rows, new.model_dump(mode="json")]
        self._list.show(self._reward_rows)
        self._take()

    def _remove(self, number: int) -> None:
        self._rows = [reward for n, reward in enumerate(self._rows) if n != number]
        self._list.show(self._reward_rows)
        self._take()

    def _take(self) -> None:
        """Report the rewards, unless the config cannot be changed now."""
        if self._refuses():
            self._rows = []
            self.show()
            return
        self._on_change([dict(reward) for reward in self._rows])

    def try_them(self) -> None:
        """Try the rewards in the background, and show the answers."""
        self._turn += 1
        turn, config = self._turn, self._config()
        self._try.disabled = True
        self._say("Trying the rewards …")

        def unless_overtaken(action: Callable[[Any], None], value: Any) -> None:
            if turn == self._turn:
                action(value)

        def say(words: str) -> None:
            call_soon(unless_overtaken, self._say, words)

        def done(table: RewardTable) -> None:
            self._try.disabled = False
            self.table = table
            means = ", ".join(f"{name} {value:.2f}" for name, value in table.means.items())
            self._say(
                f"{count(len(table), 'answer')} to {count(len(table.groups), 'row')}; mean of each "
                f"reward: {means}."
            )
            self._shown.value = page.html(table)

        def fail(error: Exception) -> None:
            self._try.disabled = False
            words = f"This failed ({type(error).__name__}: {error})."
            if isinstance(error, NbftError):
                words = " ".join(map(str, error.problems))
            self._say(words, "alert")
            self._shown.value = ""

        Task(
            lambda: try_rewards(config, say=say),
            functools.partial(unless_overtaken, done),
            functools.partial(unless_overtaken, fail),
        )

    def _say(self, words: str, role: str = "status") -> None:
        self._state.value = Markup('<p role="{}">{}</p>').format(role, words)

    def _button(
        self,
        words: str,
        about: str,
        action: Callable[[], None],
        css: str = "nbft-link",
        *,
        kit: Kit | None = None,
    ) -> Any:
        return (kit or self._kit).button(
            words,
            lambda _: action() if is_main_thread() else call_soon(action),
            css,
            tooltip=about,
        )

    def close(self) -> None:
        """Close it with every widget of its own."""
        self._turn += 1
        self._kit.close()


def _setting(part: str) -> Setting:
    return dict(fields())[f"grpo.rewards[0].{part}"]
