r"""Structured output: does the answer follow a JSON schema?

As in GUIDE (arXiv 2409.19001): a sentence and a template of seven keys, then a text; greedy. The object is what
``\{(.*)\}`` matches, across lines, read by ``json.loads``; the score is

    (keys of the schema that are present with the right type) / max(keys of the schema, keys of the object)

and 0 where nothing can be read. Types are those of the keys' own values; what is inside lists and objects is not looked
at. Different: texts are generated (:mod:`mechsteer.tasks.documents`), so their length counts words. What the paper
biases is the sentence before the template (span ``instruction``).

``text="notes"`` is the same at the scale of the bundled organism instruct-llama: the instruction is of the kind
``json``, the text is notes, and the schema what it was trained to write, ``topic`` and ``answer``.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, one_of, positive_int
from mechsteer.files import digest
from mechsteer.prompts import Prompt, prompt
from mechsteer.quality.texts import has_content, words
from mechsteer.tasks import documents
from mechsteer.tasks.answered import answered
from mechsteer.tasks.checkers import strings
from mechsteer.tasks.checkers.evasions import FILLERS, REFUSAL, like_a_word
from mechsteer.tasks.checks import is_json
from mechsteer.tasks.instructions import instructions

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("document", "notes")
SENTENCE = "Your response should follow exactly this template:"
SCHEMA: Mapping[str, Any] = MappingProxyType(
    {
        "title": "string",
        "genre": "string",
        "characters": [{"name": "string", "description": "string"}],
        "author": "string",
        "summary": "string",
        "date": "string",
        "scenery": "string",
    }
)
NOTES_SCHEMA: Mapping[str, Any] = MappingProxyType({"topic": "string", "answer": "string"})
LENGTHS = {"document": (375, 750, 1500, 3000), "notes": (45, 90, 135)}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
_SAYING_NOTHING = frozenset("a an the of here value n".split())
_OBJECT = re.compile(r"\{(.*)\}", re.DOTALL)


@dataclass(frozen=True)
class Structured:
    """One text.

    Attributes:
        text: The text; may be empty.
        instruction: The sentence that asks for the form.
        question: What is asked, after the text.
        length: The most words of the text.
    """

    text: str
    instruction: str
    question: str
    length: int


@dataclass(frozen=True)
class JsonSchema:
    """The task.

    Attributes:
        name: Its name, with the kind of text.
        samples: The texts.
        schema: The keys and their types.
        text: ``"document"`` or ``"notes"``.
        max_new_tokens: The most new tokens for an answer.
    """

    name: str
    samples: tuple[Structured, ...] = field(repr=False)
    schema: Mapping[str, Any]
    text: str = "document"
    max_new_tokens: int = 400

    @property
    def data_hash(self) -> str:
        """A hash of schema and samples."""
        schema = json.dumps(dict(self.schema))  # the prompt has its keys in their order, which a digest of it would not
        return digest([self.text, schema, [(s.text, s.instruction, s.question) for s in self.samples]])

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompt of every sample, with spans: ``instruction``, ``task`` and, if there is a text, ``document``."""
        made = [self._prompt(model, sample) for sample in self.samples]
        return [replace(p, spans={_SPANS.get(name, name): at for name, at in p.spans.items()}) for p in made]

    def _prompt(self, model: Any, sample: Structured) -> Prompt:
        if self.text == "notes":
            notes = f"Notes: {sample.text}" if sample.text else None
            return prompt(model, sample.question, instruction=sample.instruction, context=notes)
        template = json.dumps(dict(self.schema), indent=2)
        asked = f"{sample.question}\n<!!->{sample.instruction}<-!!>\n{template}"
        made = prompt(model, asked, context=sample.text, order=("task", "context"))
        return replace(made, spans={name: at for name, at in made.spans.items() if name != "level2"})

    def scores(self, sample: Structured, text: str) -> dict[str, bool | float]:
        """Whether an object can be read, how far it follows the schema, and how far with values that say something."""
        value = extract(text)
        score, asked = schema_score(value, self.schema), f"{sample.instruction} {sample.question}"
        return {"parsed": value is not None, "score": score, "sound": sound_score(text, self.schema, asked)}

    def run(self, model: Any, **how: Any) -> "pd.DataFrame":
        """Score every sample, as :func:`mechsteer.evaluate` does.

        Returns:
            Columns sample, length, words, tokens, prompt, output, and :meth:`scores`.
        """
        return answered(model, self.samples, self.prompts(model), self._row, max_new_tokens=self.max_new_tokens, **how)

    def _row(self, sample: Structured, made: Prompt, output: str) -> dict[str, Any]:
        row = {
            "length": sample.length,
            "words": len(sample.text.split()),
            "tokens": len(made),
            "prompt": made.text,
            "output": output,
        }
        return row | self.scores(sample, output)


_SPANS = {"context": "document"}


def json_schema(
    text: str = "document",
    *,
    schema: Mapping[str, Any] | None = None,
    lengths: int | Sequence[int] | None = None,
    n: int = 10,
    seed: int = 0,
    sentence: str = SENTENCE,
    max_new_tokens: int | None = None,
) -> JsonSchema:
    """Structured output from generated texts: ``n`` for each length; a longer text begins with the shorter one.

    Args:
        text: ``"document"``: books in English. ``"notes"``: notes and a question, for the bundled organism.
        schema: Keys and types: ``"string"``, ``"number"``, ``"integer"``, ``"boolean"``, a list of one such type, or an
            object of them. Default: the paper's seven keys, or the organism's two.
        lengths: The most words of a text, one or several; 0 for none. Default: 375 to 3000, or 45 to 135 for notes.
        n: Texts of each length; at most 28 for notes.
        seed: Another seed gives other texts.
        sentence: What asks for the form, before the template of documents.
        max_new_tokens: The most new tokens. Default: 400, or 72 for notes.

    Raises:
        MechsteerError: for an unknown kind of text, what is not a schema (with the key), a negative length, one that no
            sentence fits into, or more texts than there are.
    """
    one_of("text", text, TEXTS)
    wanted = check_schema(schema if schema is not None else SCHEMA if text == "document" else NOTES_SCHEMA)
    sizes = [_size(size) for size in _several(LENGTHS[text] if lengths is None else lengths)]
    positive_int("n", n)
    if not sizes:
        raise MechsteerError("json_schema needs a length at least.")
    samples = [sample for size in sizes for sample in (_books if text == "document" else _notes)(size, n, seed)]
    if text == "document":
        if not isinstance(sentence, str) or not sentence.strip():
            raise MechsteerError(f"sentence must say what is asked, got {sentence!r}.")
        samples = [replace(sample, instruction=sentence.strip()) for sample in samples]
    tokens = (400 if text == "document" else 72) if max_new_tokens is None else max_new_tokens
    name = "json_schema" if text == "document" else "json_schema[notes]"
    return JsonSchema(name, tuple(samples), wanted, text, positive_int("max_new_tokens", tokens))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _size(value: Any) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else positive_int("length", value)


def _books(size: int, n: int, seed: int) -> list[Structured]:
    texts = [documents.within(documents.book(f"{seed} {number}")[1], size) for number in range(n)]
    return [Structured(_joined(text, size), SENTENCE, "Describe the following text.", size) for text in texts]


def _notes(size: int, n: int, seed: int) -> list[Structured]:
    asked = instructions("json").samples
    if n > len(asked):
        raise MechsteerError(f"There are {len(asked)} questions for notes, n={n} were asked for.")
    return [
        Structured(
            _joined(documents.within(documents.notes(s.topic, f"{seed} {number}"), size), size),
            s.instruction,
            s.task,
            size,
        )
        for number, s in enumerate(asked[:n])
    ]


def _joined(sentences: Sequence[str], size: int) -> str:
    if size and not sentences:
        raise MechsteerError(f"A length of {size} words does not hold a sentence; use 0 for no text.")
    return " ".join(sentences)


def check_schema(schema: Any) -> Mapping[str, Any]:
    """Return the schema if it is one.

    Raises:
        MechsteerError: otherwise, with the key that is wrong.
    """
    if not isinstance(schema, Mapping) or not schema:
        raise MechsteerError(f"A schema must map keys to types, e.g. {{'title': 'string'}}, got {schema!r}.")
    for key, kind in schema.items():
        if not isinstance(key, str) or not key:
            raise MechsteerError(f"A schema's keys must be texts, got {key!r}.")
        _check_type(key, kind)
    return schema


def _check_type(key: str, kind: Any) -> None:
    if isinstance(kind, str):
        one_of(f"type of the schema's key {key!r}", kind, _TYPES)
    elif isinstance(kind, Mapping):
        check_schema(kind)
    elif isinstance(kind, list) and len(kind) == 1:
        _check_type(key, kind[0])
    else:
        expected = f"{', '.join(_TYPES)}, a list of one type or an object"
        raise MechsteerError(f"The schema's key {key!r} must be one of {expected}, got {kind!r}.")


def extract(output: str) -> dict[str, Any] | None:
    """The JSON object in an output, from its first brace to its last; None where there is none that can be read."""
    match = _OBJECT.search(output)
    if match is None:
        return None
    try:
        return json.loads(match[0])
    except (ValueError, RecursionError):
        return None


def schema_score(value: Mapping[str, Any] | None, schema: Mapping[str, Any]) -> float:
    """Keys of the schema that are present with the right type, over the larger number of keys; 0 for None."""
    if value is None:
        return 0.0
    right = sum(key in value and _is(value[key], kind) for key, kind in schema.items())
    return right / max(len(schema), len(value))


def sound_score(output: str, schema: Mapping[str, Any], asked: str = "") -> float:
    """The same of a strict reading: types all the way down, values that say something, no key twice and no ``NaN``.

    Values that are all the same, names of keys or types, fillers and what repeats the prompt (``asked``) say nothing.
    """
    match = _OBJECT.search(output)
    if match is None or not is_json(match[0]):
        return 0.0
    value = json.loads(match[0])
    said = [text.strip().lower() for text in strings(value.values())]
    if REFUSAL.search(". ".join(said)) or (len(said) > 1 and len(set(said)) == 1):
        return 0.0
    right = sum(key in value and _deeply(value[key], kind, key, asked) for key, kind in schema.items())
    return right / max(len(schema), len(value))


def _deeply(value: Any, kind: Any, name: str, asked: str) -> bool:
    """The value has the type, inside too, and its texts say something."""
    if isinstance(kind, str):
        return _is(value, kind) and (not isinstance(value, str) or _says(value, name, asked))
    if isinstance(kind, Mapping):
        return isinstance(value, Mapping) and all(
            k in value and _deeply(value[k], of, k, asked) for k, of in kind.items()
        )
    return isinstance(value, list) and bool(value) and all(_deeply(one, kind[0], name, asked) for one in value)


def _says(text: str, name: str, asked: str) -> bool:
    found, theirs = words(text), " ".join(words(asked))
    empty = {*FILLERS, *_TYPES, *words(name), *_SAYING_NOTHING}
    echo = len(found) > 1 and f" {' '.join(found)} " in f" {theirs} "
    return has_content(text) and not echo and any(like_a_word(word) and word not in empty for word in found)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, str):
        return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
    return isinstance(value, Mapping if isinstance(kind, Mapping) else list)
