"""The people of the samples: a name and its pronouns."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Person:
    """A name with its pronouns, so that a template can write `{A.his} bag`."""

    name: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        """Return the name."""
        return self.name


_WOMEN = """
Ada Aisha Alma Amina Anna Asha Bea Carmen Chloe Clara Dana Elena Elif Emma Eva Farah Freya Grace
Hana Helen Ines Iris Ivy Jana Julia Kaya Lara Leila Lena Lina Lucy Maja Maria Maya Mei Mila Nadia
Nina Nora Olga Paula Priya Rita Rosa Ruth Sara Sofia Tara Vera Yuki Zoe
""".split()
_MEN = """
Adam Ahmed Alan Amir Anton Arun Ben Bruno Carlos Chen Daniel David Diego Emil Erik Felix Finn
Frank Goran Hugo Ivan Jack Jan Jonas Karim Kofi Leo Liam Luca Marco Mark Milan Nils Noah Omar
Oscar Pablo Paul Peter Ravi Rui Sam Simon Stefan Theo Tom Viktor Walter Yusuf Zoran
""".split()

PEOPLE = tuple(
    [Person(name, "she", "her", "her") for name in _WOMEN]
    + [Person(name, "he", "him", "his") for name in _MEN]
)


def draw_people(rng: Random, count: int) -> list[Person]:
    """Draw different people whose names begin with different letters.

    Different first letters keep a reader, and a small model, from mixing them up.
    """
    drawn: list[Person] = []
    while len(drawn) < count:
        person = rng.choice(PEOPLE)
        if all(person.name[0] != other.name[0] for other in drawn):
            drawn.append(person)
    return drawn
