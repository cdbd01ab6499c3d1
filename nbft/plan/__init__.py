"""What a config will lead to: steps, tokens, bytes, seconds, and every problem. Loads no torch."""

from nbft.plan.hardware import Choice
from nbft.plan.plan import Plan, make_plan

__all__ = ["Choice", "Plan", "make_plan"]
