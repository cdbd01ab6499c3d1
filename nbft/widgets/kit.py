"""How widgets are made and closed: one layout, one style per type, and an owner for each.

A front end and the kernel hold a widget until it is closed. So widgets are made with a `Kit`, which
closes what it made, and replaced in a `Slot`, which closes what it showed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets


class Kit:
    """Makes widgets that share one layout and one style per type: a third of the messages.

    Args:
        shares: The kit whose layout and styles to use; new ones if None.
    """

    def __init__(self, shares: Kit | None = None) -> None:
        self._is_root = shares is None
        self._layout: Any = shares._layout if shares else ipywidgets.Layout()
        self._styles: dict[type, Any] = shares._styles if shares else {}
        self._made: list[Any] = []

    def __call__(self, kind: type, css: str = "", **traits: Any) -> Any:
        """Return a new widget.

        Args:
            kind: Class of the widget.
            css: CSS classes, separated by spaces.
            **traits: Traits, such as description and value.
        """
        style = kind.class_traits().get("style")  # type: ignore[attr-defined]
        if style is not None:
            if style.klass not in self._styles:
                self._styles[style.klass] = style.klass()
            traits["style"] = self._styles[style.klass]
        traits.setdefault("tooltip", "")  # some front ends show "null" for one that is not given
        return self.own(kind(layout=self._layout, _dom_classes=tuple(css.split()), **traits))

    def slot(self, css: str = "") -> Any:
        """Return a new box for widgets that are replaced."""
        return self(Slot, css, kit=self)

    def html(self, html: str, css: str = "") -> Any:
        """Return a new widget that shows HTML."""
        return self(ipywidgets.HTML, css, value=str(html))

    def button(
        self, text: str, action: Callable[..., object], css: str = "nbft-link", **traits: Any
    ) -> Any:
        """Return a new button that calls an action with itself."""
        button = self(ipywidgets.Button, css, description=text, **traits)
        button.on_click(action)
        return button

    def row(self, *children: Any, css: str = "nbft-row") -> Any:
        """Return a new box with widgets side by side."""
        return self(ipywidgets.HBox, css, children=children)

    def own(self, widget: Any) -> Any:
        """Take over a widget that was made elsewhere, to close it with the rest; return it."""
        self._made.append(widget)
        return widget

    def close(self) -> None:
        """Close everything that was made, and the shared layout and styles unless borrowed."""
        while self._made:
            self._made.pop().close()
        if self._is_root:
            for shared in (self._layout, *self._styles.values()):
                shared.close()


class Slot(ipywidgets.VBox):
    """A box that closes the widgets that it showed before when it shows others.

    Args:
        kit: The kit whose layout and styles its widgets use.
        **traits: Traits of a box.
    """

    def __init__(self, kit: Kit, **traits: Any) -> None:
        super().__init__(**traits)
        self._kit, self._shown = kit, Kit(kit)

    def show(self, make: Callable[[Kit], Iterable[Any]] = lambda _: ()) -> None:
        """Show other widgets.

        Args:
            make: Called with a kit, returns them. Those made with this kit are closed when they
                are replaced; others only leave the box.
        """
        kit = Kit(self._kit)
        try:
            children = tuple(make(kit))
        except BaseException:
            kit.close()
            raise
        before, self._shown = self._shown, kit
        self.children = children
        before.close()

    def close(self) -> None:
        """Close the box and what it shows."""
        self._shown.close()
        super().close()


@contextmanager
def unobserved(control: Any, handler: Callable[..., None]) -> Iterator[None]:
    """Change the value of a control without calling its handler."""
    control.unobserve(handler, "value")
    try:
        yield
    finally:
        control.observe(handler, "value")
