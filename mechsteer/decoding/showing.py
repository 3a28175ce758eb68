"""How a generation shows itself: answers in a terminal; in a notebook, tokens by log-probability or by the trace."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mechsteer.display import STRIP, Piece, counted, folded, legend, shortened, titled, token_strip
from mechsteer.prompts.vocabulary import together, token_bytes

SHOWN = 20
"""Answers in a notebook."""
LINES = 8
"""Answers in a terminal."""
UNLIKELY = 5.0
"""Nats from which on a token has the full colour: a probability of .7 %."""

LEGENDS: Mapping[str, Mapping[str, str]] = {
    "directer": {
        "green": "steered: the darker, the more layers",
        "red": "every trial was rejected: the unsteered token",
    },
    "dola": {"purple": "contrasted: the darker, the later the layer"},
    "": {"orange": "the darker, the less likely (log-probability under the model)"},
}
"""What colours mean, by the strategy that left the trace."""


def text_of(out: Any) -> str:
    """The answers, a line each."""
    lines = [f"Generation: {counted(len(out.texts), 'answer')}, {counted(sum(out.lengths), 'token')}"]
    lines += [_headed(number, text) for number, text in enumerate(out.texts[:LINES])]
    return "\n".join([*lines, *([f"… and {len(out.texts) - LINES} more"] if len(out.texts) > LINES else [])])


def page_of(out: Any) -> str:
    """The answers with their tokens coloured; more than one are folded."""
    traced = _traced(out)
    by_place: dict[int, list[dict[str, Any]]] = {}
    for line in out.trace.to_dict("records") if traced else []:
        by_place.setdefault(int(line["prompt"]), []).append(line)
    most = max([1, *(int(line["layers"]) for lines in by_place.values() for line in lines if "layers" in line)])
    last = max([1, *(int(line["layer"]) for lines in by_place.values() for line in lines if "layer" in line)])
    shown = out.texts[:SHOWN]
    parts = [
        folded(
            _headed(number, text),
            token_strip(
                _coloured(
                    token_bytes(out.tokenizer, out.tokens[number, : out.lengths[number]].tolist()),
                    out.logprobs[number],
                    traced,
                    by_place.get(number, []),
                    last if traced == "dola" else most,
                ),
                STRIP // len(shown),
            ),
            unfolded=len(out.texts) == 1,
        )
        for number, text in enumerate(shown)
    ]
    more = f", the first {SHOWN} shown" if len(out.texts) > SHOWN else ""
    return titled(f"Generation: {counted(len(out.texts), 'answer')}{more}", legend(LEGENDS[traced]), *parts)


def _headed(number: int, text: str) -> str:
    return f"{number}: {shortened(text, 100) or '(empty)'}"


def _traced(out: Any) -> str:
    """Whose trace it is: DIRECTER's or another gate's, DoLa's, or nobody's that has a colour."""
    columns = set(out.trace.columns)
    if {"accepted", "skipped"} <= columns:
        return "directer"
    return "dola" if {"layer", "jsd"} <= columns else ""


def _coloured(
    pieces: Sequence[bytes], logprobs: Any, traced: str, trace: Sequence[Mapping[str, Any]], most: int
) -> list[Piece]:
    """The tokens; those that are parts of one letter together, on the strongest of their colours."""
    made = []
    for places in together(pieces):
        told = [(float(logprobs[place]), trace[place] if place < len(trace) else {}) for place in places]
        colour, strength = max((_colour(traced, line, logprob, most) for logprob, line in told), key=lambda one: one[1])
        text = b"".join(pieces[place] for place in places).decode("utf-8", errors="backslashreplace")
        made.append(Piece(text, colour, strength, title=" | ".join(_title(logprob, line) for logprob, line in told)))
    return made


def _colour(traced: str, line: Mapping[str, Any], logprob: float, most: int) -> tuple[str, float]:
    if traced == "directer":
        if line.get("skipped", True):
            return "", 0.0
        return ("green", 0.15 + 0.6 * _share(line, "layers", most)) if line["accepted"] else ("red", 0.35)
    if traced == "dola":
        return "purple", 0.1 + 0.6 * _share(line, "layer", most)
    return "orange", 0.7 * min(1.0, -logprob / UNLIKELY) if math.isfinite(logprob) else 0.7


def _share(line: Mapping[str, Any], column: str, most: int) -> float:
    return max(0.0, float(line.get(column, most))) / most


def _title(logprob: float, line: Mapping[str, Any]) -> str:
    said = [f"probability {math.exp(logprob):.3g} ({logprob:.2f} nats)"]
    told = ("skipped", "accepted", "layers", "trials", "p_raw", "p_token", "layer", "jsd")
    said += [
        f"{name} {line[name]:.3g}" if isinstance(line[name], float) else f"{name} {line[name]}"
        for name in told
        if name in line
    ]
    return "; ".join(said)
