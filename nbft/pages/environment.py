"""The templates, rendered by jinja2 with autoescape: no value can become markup."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nbft.formatting import count, duration, number, size


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nbft.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, duration=duration, number=number, size=size)
    return environment


def render(template: str, **values: Any) -> Markup:
    """Return a template filled with values, as HTML that other templates take as it is."""
    return Markup(_environment().get_template(f"{template}.html.jinja").render(**values))  # noqa: S704 - escaped by jinja2
