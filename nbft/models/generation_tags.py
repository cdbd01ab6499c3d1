"""The tags by which some chat templates mark what the model writes, for Jinja."""

from __future__ import annotations

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class GenerationTags(Extension):
    """{% generation %} … {% endgeneration %}, which writes what is in it.

    Source: transformers, utils/chat_template_utils.py.
    """

    tags = {"generation"}  # noqa: RUF012 jinja2 declares a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what is between the tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
