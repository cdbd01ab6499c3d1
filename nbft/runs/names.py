"""Names of runs: two words and a number, sayable in a classroom."""

from __future__ import annotations

import random
from pathlib import Path

_ADJECTIVES = """amber bold brave bright brisk calm clear clever cosy crisp eager early fair fond
fresh gentle glad golden grand green happy honest jolly keen kind lively lucky mellow merry mild
modest neat nimble noble patient plain polite proud quick quiet rapid ready shiny silent silver
smart snug steady sunny swift tidy warm wise witty""".split()

_ANIMALS = """badger bear beaver bison cat crane crow deer dolphin dove duck eagle falcon ferret
finch fox frog gecko goat goose hare hawk heron horse ibex jay koala lark lemur lion llama lynx
magpie marten mole moose newt otter owl panda parrot pika puffin rabbit raven robin salmon seal
sheep shrew snail sparrow stork swan tiger toad trout turtle walrus whale wolf wren zebra""".split()


def new_name(folder: Path) -> str:
    """Return a name that no run in a folder has, such as kind-otter-14."""
    chance = random.SystemRandom()  # a training's seed must not repeat the name
    while True:
        words = f"{chance.choice(_ADJECTIVES)}-{chance.choice(_ANIMALS)}"
        name = f"{words}-{chance.randrange(1, 100)}"
        if not (folder / name).exists():
            return name
