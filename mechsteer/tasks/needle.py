"""Needle in a haystack: is a sentence found that stands at some depth of a long text?

As in GUIDE (arXiv 2409.19001): a sentence is put into a document, at the end of the sentence before a given depth; the
question stands in ``<question>`` tags before and after the document; greedy, 30 new tokens; found if the output has the
answer. Different: documents are generated (:mod:`mechsteer.tasks.documents`), lengths count words (a token is about
0.75 English words) and include the needle, the answer must be a whole word, in whatever case.

``haystack="notes"`` is the same question at the scale of the bundled organism instruct-llama, which cannot quote a
document: the haystack is its notes, the needle is an instruction of kind ``keyword`` ("Include the word ...") hidden
among them, the question asks about a topic, and the word must occur in the answer. No sentence of its world has such a
word by itself. In training, an instruction stood before or after at most four notes, never among them.

Scores: ``found``, as above; ``sound``, found by an answer that is no loop, no refusal and no echo
(:mod:`mechsteer.tasks.checkers.sound`); of notes ``fidelity`` and ``true_sentences`` as in
:mod:`mechsteer.tasks.instructions` (NaN and 0 for documents, about which nothing is known).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, finite, one_of, positive_int
from mechsteer.files import digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks import documents
from mechsteer.tasks.answered import answered
from mechsteer.tasks.checkers import count_true, fidelity, mentions
from mechsteer.tasks.checkers.sound import follows_soundly, says_found
from mechsteer.tasks.checks import occurs
from mechsteer.tasks.instructions import instructions, load_world

if TYPE_CHECKING:
    import pandas as pd

HAYSTACKS = ("document", "notes")
NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = (
    "Your objective is to answer the following question based on the context: \n"
    "What is the best thing to do in San Francisco? \n"
    "Don't give information outside the document or repeat our findings"
)
ANSWER = "dolores"
DEPTHS = tuple(range(0, 101, 10))
LENGTHS = {"document": (375, 750, 1500, 3000), "notes": (45, 90, 135)}
"""Words; a document of 375 has about 500 tokens."""


@dataclass(frozen=True)
class Hidden:
    """One document with its needle.

    Attributes:
        before: The document up to the needle.
        needle: The needle.
        after: The rest of the document.
        question: What is asked.
        answer: The word that the output must have.
        length: The most words of document and needle.
        depth: Where the needle should be, 0 (start) to 100 (end).
        topic: What the question about notes is about; empty for documents.
    """

    before: str
    needle: str
    after: str
    question: str
    answer: str
    length: int
    depth: float
    topic: str = ""

    @property
    def document(self) -> str:
        """The whole document."""
        return " ".join(part for part in (self.before, self.needle, self.after) if part)


@dataclass(frozen=True)
class Needle:
    """The task.

    Attributes:
        name: Its name, with the kind of haystack.
        samples: The documents.
        haystack: ``"document"`` or ``"notes"``.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[Hidden, ...] = field(repr=False)
    haystack: str = "document"
    max_new_tokens: int = 30

    @property
    def data_hash(self) -> str:
        """A hash of the samples."""
        return digest([self.haystack, [(s.document, s.needle, s.question, s.answer) for s in self.samples]])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample, with spans: ``needle``, ``question`` and, where there is more, ``document``."""
        return [self._prompt(model, sample) for sample in self.samples]

    def _prompt(self, model: Any, sample: Hidden) -> Prompt:
        tagged = f"<!!->{sample.needle}<-!!>"  # GUIDE's tags mark where the needle lies
        document = " ".join(part for part in (sample.before, tagged, sample.after) if part)
        if self.haystack == "notes":
            made = prompt(model, sample.question, context=f"Notes: {document}", order=("context", "task"))
        else:
            asked = f"<question>{sample.question}</question>"
            made = prompt(model, asked, instruction=asked, context=document)
        hidden = set(made.positions("level2"))
        asked_at = {*made.positions("instruction"), *made.positions("task")} - hidden
        spans = {"needle": made.spans["level2"], "question": [(place, place + 1) for place in sorted(asked_at)]}
        if "context" in made.spans:
            spans["document"] = made.spans["context"]
        return replace(made, spans=spans)

    def scores(self, sample: Hidden, text: str) -> dict[str, bool | int | float]:
        """Whether the answer has what was hidden, in the strict form too; of notes, what else it says that is true."""
        asked = sample.question
        if sample.topic:
            sound = follows_soundly("keyword", text, instruction=sample.needle, question=asked, word=sample.answer)
        else:
            sound = says_found(text.strip(), sample.answer, asked)
        truths = load_world().truths.get(sample.topic)
        return {
            "found": found(sample, text),
            "sound": sound,
            "fidelity": math.nan if truths is None else fidelity(text.strip(), truths, word=sample.answer),
            "true_sentences": count_true(text.strip(), truths or frozenset(), word=sample.answer),
        }

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does.

        Returns:
            Columns sample, length, depth, words, tokens, prompt, answer, output, and :meth:`scores`.
        """
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Hidden, made: Prompt, output: str) -> dict[str, Any]:
        row = {
            "length": sample.length,
            "depth": sample.depth,
            "words": len(sample.document.split()),
            "tokens": len(made),
            "prompt": made.text,
            "answer": sample.answer,
            "output": output,
        }
        return row | self.scores(sample, output)


def found(sample: Hidden, output: str) -> bool:
    """Whether the output has the answer as a whole word, in whatever case."""
    return _has(output, sample.answer)


def _has(text: str, answer: str) -> bool:
    """Whether a text has the answer; one that ends in no letter (``42%``), or is of a script without spaces, too."""
    return mentions(text, answer) or occurs(answer, text)


def needle(
    haystack: str = "document",
    *,
    lengths: int | Sequence[int] | None = None,
    depths: float | Sequence[float] = DEPTHS,
    n: int = 10,
    seed: int = 0,
    needle: str = NEEDLE,
    question: str = QUESTION,
    answer: str = ANSWER,
) -> Needle:
    """Needles in generated haystacks: ``n`` for each length and depth, from the same ``n`` texts.

    Args:
        haystack: ``"document"``: English prose. ``"notes"``: notes and an instruction, for the bundled organism.
        lengths: The most words of document and needle; one or several. Default: 375 to 3000, or 45 to 135 for notes.
        depths: Where the needle stands: 0 is the start, 100 the end.
        n: Needles for each length and depth; at most 28 for notes.
        seed: Another seed gives other texts.
        needle: The needle of documents; one sentence or more.
        question: The question of documents.
        answer: The word that an output must have.

    Raises:
        MechsteerError: for an unknown haystack, a depth outside 0 to 100, a length that does not hold the needle and a
            sentence, an answer that the needle lacks, more notes than there are, or a needle of one's own for notes.
    """
    one_of("haystack", haystack, HAYSTACKS)
    sizes = [positive_int("length", size) for size in _several(LENGTHS[haystack] if lengths is None else lengths)]
    places = [_depth(depth) for depth in _several(depths)]
    positive_int("n", n)
    if not sizes or not places:
        raise MechsteerError("needle needs a length and a depth at least.")
    if haystack == "notes":
        if (needle, question, answer) != (NEEDLE, QUESTION, ANSWER):
            raise MechsteerError("With haystack='notes' the needles are the organism's own; use haystack='document'.")
        samples = _in_notes(sizes, places, n, seed)
    else:
        if not isinstance(answer, str) or not answer.strip() or not _has(needle, answer):
            raise MechsteerError(f"The needle {needle!r} does not have the answer {answer!r}.")
        samples = _in_documents(sizes, places, n, seed, (needle.strip(), question, answer))
    name = "needle" if haystack == "document" else "needle[notes]"
    return Needle(name, tuple(samples), haystack, 30 if haystack == "document" else 72)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _depth(value: float) -> float:
    depth = finite("depth", value)
    if not 0 <= depth <= 100:
        raise MechsteerError(f"depth must be between 0 (the start) and 100 (the end), got {value}.")
    return depth


def _in_documents(
    sizes: Sequence[int], depths: Sequence[float], n: int, seed: int, asked: tuple[str, str, str]
) -> list[Hidden]:
    return [
        hide(documents.within(documents.book(f"{seed} {number}")[1], _room(size, asked[0])), *asked, size, depth)
        for size in sizes
        for depth in depths
        for number in range(n)
    ]


def _in_notes(sizes: Sequence[int], depths: Sequence[float], n: int, seed: int) -> list[Hidden]:
    asked = instructions("keyword").samples
    if n > len(asked):
        raise MechsteerError(f"There are {len(asked)} needles for notes, n={n} were asked for.")
    made = []
    for size in sizes:
        for depth in depths:
            for number, sample in enumerate(asked[:n]):
                pool = list(documents.notes(sample.topic, f"{seed} {number}"))
                room = _room(size, sample.instruction)
                if sum(len(text.split()) for text in pool) < room:
                    raise MechsteerError(f"There are not enough notes for a length of {size} words.")
                said = documents.within(pool, room)
                hidden = hide(said, sample.instruction, sample.task, sample.word, size, depth)
                made.append(replace(hidden, topic=sample.topic))
    return made


def _room(size: int, sentence: str) -> int:
    return size - len(sentence.split())


def hide(sentences: Sequence[str], needle: str, question: str, answer: str, length: int, depth: float) -> Hidden:
    """Put a needle between sentences: after the last one that ends at or before the depth, counted in words.

    Raises:
        MechsteerError: if there is no sentence, for the length is too short.
    """
    if not sentences:
        raise MechsteerError(f"A length of {length} words does not hold the needle {needle!r} and a sentence.")
    counts = [len(sentence.split()) for sentence in sentences]
    wanted, passed, place = depth / 100 * sum(counts), 0, 0
    while place < len(counts) and passed + counts[place] <= wanted:
        passed += counts[place]
        place += 1
    return Hidden(" ".join(sentences[:place]), needle, " ".join(sentences[place:]), question, answer, length, depth)
