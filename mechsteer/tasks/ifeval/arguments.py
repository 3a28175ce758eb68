"""What IFEval's instructions take, and what is wrong with the arguments of a line.

lm-eval's checkers draw an argument that is missing, empty, zero or out of range at random, each time anew, and so score
an output by something that the prompt does not ask for. Here each argument is required, and must be one that the
checker uses as it is; where the checker reads a regular expression (keywords are ones), one that Python can read.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from mechsteer.errors import nearest, shown

RELATIONS = ("less than", "at least")
LANGUAGES = tuple("ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi".split())


def _count(value: Any) -> str:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return "" if fits else "an integer of at least 1"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() else "a text"


def _word(value: Any) -> str:
    return "" if isinstance(value, str) and len(value.split()) == 1 else "one word"


def _within(form: str, case: Callable[[str], str] = str) -> Callable[[Any], str]:
    """What a text must be that stands, in that case, in the place of ``{}`` in a regular expression."""

    def fault(value: Any) -> str:
        if wanted := _text(value):
            return wanted
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(form.format(case(value.strip())))
        except (re.error, OverflowError, RecursionError):
            own = shown(re.escape(value.strip()))
            return f"a regular expression, for lm-eval's checker reads one ({own} means these characters)"
        return ""

    return fault


def _words(form: str) -> Callable[[Any], str]:
    """What a list of such texts must be."""
    fault = _within(form)

    def faults(value: Any) -> str:
        if not isinstance(value, list) or not value or any(map(_text, value)):
            return "a list of words"
        return next((f"a list of words, and each {wanted}" for wanted in map(fault, value) if wanted), "")

    return faults


def _letter(value: Any) -> str:
    return "" if isinstance(value, str) and len(value) == 1 and value.strip() else "one character"


def _relation(value: Any) -> str:
    return "" if value in list(RELATIONS) else f"one of {', '.join(map(repr, RELATIONS))}"


def _language(value: Any) -> str:
    return "" if value in list(LANGUAGES) else f"a language code that lm-eval knows ({', '.join(LANGUAGES)})"


ARGUMENTS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "change_case:capital_word_frequency": {"capital_frequency": _count, "capital_relation": _relation},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "combination:repeat_prompt": {"prompt_to_repeat": _text},
    "combination:two_responses": {},
    "detectable_content:number_placeholders": {"num_placeholders": _count},
    "detectable_content:postscript": {"postscript_marker": _within(r"\s*{}.*$", str.lower)},
    "detectable_format:constrained_response": {},
    "detectable_format:json_format": {},
    "detectable_format:multiple_sections": {"section_spliter": _within(r"\s?{}\s?\d+\s?"), "num_sections": _count},
    "detectable_format:number_bullet_lists": {"num_bullets": _count},
    "detectable_format:number_highlighted_sections": {"num_highlights": _count},
    "detectable_format:title": {},
    "keywords:existence": {"keywords": _words("{}")},
    "keywords:forbidden_words": {"forbidden_words": _words(r"\b{}\b")},
    "keywords:frequency": {"keyword": _within("{}"), "frequency": _count, "relation": _relation},
    "keywords:letter_frequency": {"letter": _letter, "let_frequency": _count, "let_relation": _relation},
    "language:response_language": {"language": _language},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": _count,
        "nth_paragraph": _count,
        "first_word": _word,
    },
    "length_constraints:number_paragraphs": {"num_paragraphs": _count},
    "length_constraints:number_sentences": {"num_sentences": _count, "relation": _relation},
    "length_constraints:number_words": {"num_words": _count, "relation": _relation},
    "punctuation:no_comma": {},
    "startend:end_checker": {"end_phrase": _text},
    "startend:quotation": {},
}
"""The instructions that lm-eval has checkers for, and for each of their arguments what it must be (empty if it is)."""


def problem(name: str, arguments: Mapping[str, Any]) -> str:
    """What is wrong with an instruction and its arguments, in words; empty if nothing is.

    Arguments that are None count as absent: the public file in the hub's format has all names on all instructions.
    """
    if name not in ARGUMENTS:
        return f"lm-eval has no checker for the instruction {shown(name)}.{nearest(name, ARGUMENTS)}"
    expected = ARGUMENTS[name]
    given = {key: value for key, value in arguments.items() if value is not None}
    for key in given:
        if key not in expected:
            return f"{name} takes no argument {shown(key)}.{nearest(key, expected) or ' It takes none.'}"
    for key, fault in expected.items():
        if key not in given:
            return f"{name} lacks the argument {key!r}, which lm-eval's checker would draw at random."
        if wanted := fault(given[key]):
            return f"{key!r} of {name} must be {wanted}, got {shown(given[key])}."
    if given.get("nth_paragraph", 0) > given.get("num_paragraphs", 0) and "nth_paragraph" in given:
        return f"{name} asks for paragraph {given['nth_paragraph']} of {given['num_paragraphs']}."
    return ""
