"""What steers each kind of instruction: projection for formats, and for words to leave out the vector of saying them.

A word to leave out is *included* by the vector and excluded by subtracting it, as in the paper, which found an
exclusion vector weaker: one vector a word, from questions that ask for no word, with and without a request to include
it. It is subtracted in a share of the stream's norm, divided by the number of words of the prompt.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mechsteer.directions import Direction, differences_in_means
from mechsteer.models import stacks
from mechsteer.prompts import prompt
from mechsteer.steering import Intervention, add, project
from mechsteer.studies.core.bench import Bench
from mechsteer.studies.ifeval_vectors.prompts import EXCLUDED, Pairs, excluded_words, pairs
from mechsteer.studies.instruction_vectors.choose import NONE, grid
from mechsteer.tasks import IFEval

REQUESTS = (
    'Use the word "{}" in your answer.',
    'Make sure that the word "{}" occurs.',
    'Include "{}".',
    'Your answer must contain the word "{}".',
    'Mention "{}" somewhere.',
)
"""Ways to ask for a word, used in turn."""

WORD_PAIRS = 20
"""Questions that a word's vector comes from, as in the paper."""

DEPTHS, SHARES = (0.75, 0.8125, 0.875), (0.1, 0.2, 0.4)
"""Where words are steered (the paper's layers 24, 26 and 28 of 32), and how much."""


class Option(NamedTuple):
    """Where and how much: the layer (-1 for no steering), and of added vectors the share of the stream's norm."""

    layer: int = NONE
    share: float = 0.0


class Vectors:
    """The vectors of one half of the prompts; those of words are made when they are first needed.

    Args:
        bench: Model and folder.
        half: The prompts that vectors may come from.
        kinds: The kinds of instruction; one that the half has no wording of has no vector.
        n_pairs: The most pairs for the vector of a format.
    """

    def __init__(self, bench: Bench, half: IFEval, kinds: Sequence[str], n_pairs: int) -> None:
        self.bench, self.half = bench, half
        self.depth = stacks(bench.model)["blocks"]
        formats = [kind for kind in kinds if kind != EXCLUDED]
        found = {kind: pairs(bench.model, half, kind, n_pairs) for kind in formats}
        self.formats = {kind: self._made(kind, grid(self.depth), made) for kind, made in found.items()}
        self.words: dict[str, dict[int, Direction]] = {}

    def options(self, kind: str) -> list[Option]:
        """No steering, then what there is to choose from."""
        if kind != EXCLUDED:
            return [Option(), *map(Option, self.formats[kind])]
        return [Option(), *(Option(layer, share) for layer in self._word_layers() for share in SHARES)]

    def steering(self, task: IFEval, chosen: Mapping[str, Option]) -> Intervention | None:
        """What some options do to the prompts of a task; None for nothing."""
        made = Intervention()
        for kind, option in chosen.items():
            if kind == EXCLUDED and option.layer != NONE:
                made += self._left_out(task, option)
            elif option.layer in self.formats.get(kind, ()):
                made += project(self.formats[kind][option.layer], scope="content")
        return made if made.edits else None

    def _left_out(self, task: IFEval, option: Option) -> Intervention:
        """From each prompt the vectors of its own words are subtracted."""
        made, rows = Intervention(), dict[tuple[str, int], list[int]]()
        for place, sample in enumerate(task.samples):
            words = excluded_words(sample)
            for word in words:
                rows.setdefault((word, len(words)), []).append(place)
        for (word, count), places in rows.items():
            vector = self._word(word)[option.layer]
            made += add(vector, -option.share * vector.activation_norm / count, scope="content", rows=places)
        return made

    def _word(self, word: str) -> dict[int, Direction]:
        if word not in self.words:
            questions = dict.fromkeys(s.base for s in self.half.samples if s.base and "keywords:" not in s.kind)
            model = self.bench.model
            found = [
                (prompt(model, f"{question} {REQUESTS[place % len(REQUESTS)].format(word)}"), prompt(model, question))
                for place, question in enumerate(list(questions)[:WORD_PAIRS])
            ]
            self.words[word] = self._made("word", self._word_layers(), found)
        return self.words[word]

    def _word_layers(self) -> list[int]:
        return sorted({int(depth * self.depth) for depth in DEPTHS})

    def _made(self, name: str, layers: Sequence[int], found: Pairs) -> dict[int, Direction]:
        def make(layers: Sequence[int]) -> dict[int, Direction]:
            return differences_in_means(self.bench.model, found, layers=layers, batch_size=self.bench.batch_size)

        return self.bench.directions(name.replace(":", "-"), layers, found, make) if found else {}
