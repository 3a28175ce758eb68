"""Other forms of the same prompts, which say what the place or the template of the instruction costs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mechsteer.diagnosis.cases import SPAN, Case
from mechsteer.diagnosis.editing import content_of, with_last, with_words_shuffled, without_span
from mechsteer.diagnosis.formats import FORMATS, Format, formats_for
from mechsteer.errors import MechsteerError
from mechsteer.models import is_encoder_decoder
from mechsteer.prompts import Prompt, prompt
from mechsteer.tasks.spans import mark

LAST, NEAR, SHUFFLED = "instruction last", "without context", "context shuffled"
CHAT, PLAIN = "chat template", "no template"
NEARER = (LAST, NEAR)
TEMPLATES = (CHAT, PLAIN, *(f"{one.name} template" for one in FORMATS))


def forms_of(model: Any, cases: Sequence[Case], new_tokens: int) -> dict[str, list[Prompt | None]]:
    """Every form that can be made of at least one prompt, with None for the prompts of which it cannot.

    ``instruction last``: behind the task. ``without context``: the span ``context`` cut out. ``context shuffled``: its
    words in another order, as long as before and without what it says. ``chat template``: the tokenizer's, where the
    prompt has none. ``no template``: where it has one; and
    formats in wide use (:mod:`mechsteer.diagnosis.formats`) whose marks the tokenizer knows and its template lacks.
    Another template, or none, is tried for one message of the user: of several nobody knows where they would stand.
    """
    makers = {LAST: _last, NEAR: _near, SHUFFLED: _shuffled, CHAT: _chat, PLAIN: _plain}
    makers |= {f"{one.name} template": partial(_wrapped, one) for one in formats_for(model.tokenizer)}
    found = {name: [_fitting(model, case, make, new_tokens) for case in cases] for name, make in makers.items()}
    return {name: made for name, made in found.items() if any(one is not None for one in made)}


def _fitting(model: Any, case: Case, make: Callable[[Any, Case], Prompt | None], new_tokens: int) -> Prompt | None:
    """The form, if there is one, it differs and the context has room for it."""
    try:
        made = make(model, case)
    except MechsteerError:
        return None
    if made is None or made.tokens.tolist() == case.prompt.tokens.tolist() or not made.spans.get(SPAN):
        return None
    return made if is_encoder_decoder(model) or len(made) + new_tokens <= model.cfg.n_ctx else None


def _last(model: Any, case: Case) -> Prompt | None:
    if case.without is None:
        return None
    return with_last(model, case.without, case.prompt.span_text(SPAN).replace(" … ", " "))


def _near(model: Any, case: Case) -> Prompt | None:
    return without_span(model, case.prompt, "context") if case.prompt.spans.get("context") else None


def _shuffled(model: Any, case: Case) -> Prompt | None:
    return with_words_shuffled(model, case.prompt, "context", case.number) if case.prompt.spans.get("context") else None


def _chat(model: Any, case: Case) -> Prompt | None:
    if case.prompt.template is not None or not getattr(model.tokenizer, "chat_template", None):
        return None
    return prompt(model, _marked(case.prompt), chat=True)


def _plain(model: Any, case: Case) -> Prompt | None:
    one = case.prompt.template is not None and _is_one_message(model, case.prompt)
    return prompt(model, _marked(case.prompt), chat=False) if one else None


def _wrapped(chosen: Format, model: Any, case: Case) -> Prompt | None:
    if case.prompt.template is not None and not _is_one_message(model, case.prompt):
        return None
    return prompt(model, f"{chosen.before}{_marked(case.prompt)}{chosen.after}", chat=False)


def _is_one_message(model: Any, made: Prompt) -> bool:
    """Whether a templated prompt is the template around its content; of several messages, marks are inside of that."""
    alone = prompt(model, _marked(made), chat=True, template=made.template)
    return alone.text.split() == made.text.split()


def _marked(made: Prompt) -> str:
    text, spans = content_of(made)
    return mark(text, spans[SPAN])
