"""English documents made from a seed, so that long prompts need no data set; and notes of the bundled world.

A book has a title page (title, author, year, genre, place, people) and then goes on for as long as one wants. The text
of a seed is the same for every length: a longer one begins with the shorter one.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mechsteer.tasks.instructions import load_world

NAMES = (
    "Agnes Bertram Cecily Duncan Edith Florian Greta Hubert Ingrid Jasper Lydia Magnus Nora Oswald Petra Rupert".split()
)
SURNAMES = "Ashdown Brookes Carver Dunmore Eastlake Fairfax Greenwood Hollis Marlow Northcote Pembroke Thorne".split()
ROLES = (
    "a retired clockmaker",
    "a young botanist",
    "a captain without a ship",
    "a travelling painter",
    "a schoolteacher",
    "a keeper of bees",
    "a cartographer",
    "a cellist",
    "a baker",
    "a doctor of the valley",
)
DEEDS = (
    "repaired the old bridge",
    "wrote a long letter",
    "counted the boats",
    "spoke with the miller",
    "lost a silver ring",
    "drew a careful map",
    "carried water to the horses",
    "read an almanac aloud",
    "argued about the price of wool",
    "found a broken lantern",
    "planted a row of apple trees",
    "waited for the evening coach",
    "sold two barrels of cider",
    "remembered the winter of the flood",
    "learned an old song",
    "painted the door green",
)
PLACES = (
    "near the harbour",
    "behind the chapel",
    "in the market square",
    "on the northern road",
    "at the edge of the forest",
    "by the river",
    "in the kitchen of the inn",
    "below the castle wall",
    "on the frozen lake",
    "in the attic",
)
TIMES = (
    "That morning",
    "Some days later",
    "In the autumn",
    "Before the storm",
    "After supper",
    "On the last day of the fair",
    "While the others slept",
    "A week before the wedding",
    "Without a word",
    "In spite of the rain",
)
GENRES = ("adventure", "comedy", "history", "mystery", "romance")
SCENERIES = ("a fishing village", "a mountain valley", "a walled city", "an island of shepherds", "a river town")
SUBJECTS = ("Clock", "Garden", "Journey", "Lantern", "Letter", "Orchard", "Bridge", "Winter")


@dataclass(frozen=True)
class Book:
    """What the title page says.

    Attributes:
        title: Its title.
        author: Who wrote it.
        date: The year, as text.
        genre: One of five.
        scenery: Where it is set.
        characters: Names and what they are.
    """

    title: str
    author: str
    date: str
    genre: str
    scenery: str
    characters: tuple[tuple[str, str], ...]

    def page(self) -> tuple[str, ...]:
        """The sentences of the title page."""
        return (
            f"{self.title}, by {self.author}, was printed in {self.date}.",
            f"This {self.genre} is set in {self.scenery}.",
            *(f"{name} is {role}." for name, role in self.characters),
        )


def book(seed: str) -> tuple[Book, Iterator[str]]:
    """A book, and its sentences without end, the title page first."""
    rng = random.Random(f"book {seed}")
    first, second = rng.sample(SUBJECTS, 2)
    cast = tuple(zip(rng.sample(NAMES, 4), rng.sample(ROLES, 4), strict=True))
    made = Book(
        title=f"The {first} and the {second}",
        author=f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}",
        date=str(rng.randint(1510, 1699)),
        genre=rng.choice(GENRES),
        scenery=rng.choice(SCENERIES),
        characters=cast,
    )
    return made, _told(rng, made)


def _told(rng: random.Random, made: Book) -> Iterator[str]:
    yield from made.page()
    names = [name for name, _ in made.characters]
    while True:
        who, other = rng.sample(names, 2)
        deed, place, time = rng.choice(DEEDS), rng.choice(PLACES), rng.choice(TIMES)
        yield rng.choice(
            (
                f"{time}, {who} {deed} {place}.",
                f"{who} {deed} {place}, and {other} watched from afar.",
                f"{time}, {place}, {who} and {other} {deed} together.",
                f"Nobody knew why {who} {deed}; it was said that {other} had asked for it {place}.",
            )
        )


def notes(topic: str, seed: str) -> Iterator[str]:
    """Sentences about other topics of the bundled world, shuffled by a seed, until there are no more."""
    pool = [said for other, facts in load_world().notes.items() if other != topic for said in facts]
    rng = random.Random(f"notes {seed}")
    rng.shuffle(pool)
    yield from (rng.choice(said) for said in pool)


def within(sentences: Iterable[str], words: int) -> list[str]:
    """As many of the first sentences as have at most so many words together."""
    taken: list[str] = []
    for sentence in sentences:
        words -= len(sentence.split())
        if words < 0:
            break
        taken.append(sentence)
    return taken
