"""The sentences of what stands beside the verdict."""

from collections.abc import Iterator

from mechsteer.diagnosis.evidence import ABOVE, BELOW, NONE, Compared
from mechsteer.diagnosis.finding import Finding
from mechsteer.diagnosis.findings import OTHER
from mechsteer.diagnosis.supporting import Split, Supporting
from mechsteer.diagnosis.wording import beside, ends, p_value, shift


def supporting_findings(found: Supporting | None) -> list[Finding]:
    """Every finding, in order."""
    if found is None:
        return []
    makers = (_where, _splits, _influence, _lens, _sinks, _methods)
    return [one for make in makers for one in make(found)]


def _where(found: Supporting) -> Iterator[Finding]:
    yield Finding(
        "where",
        "measured",
        f"The instruction has {found.instruction:.0f} tokens and ends {found.distance:.0f} before the answer, in "
        f"prompts of {found.tokens:.0f} (medians).",
    )


def _splits(found: Supporting) -> Iterator[Finding]:
    if not found.splits:
        sentence = "Followed against ignored prompts: no evidence, for one of the groups has fewer than 3."
        yield Finding("where", NONE, sentence)
    for one in found.splits:
        yield Finding("where", (ABOVE if one.followed > one.ignored else BELOW) if one.differs else NONE, _split(one))


def _split(one: Split) -> str:
    what = one.measure if one.layer is None else f"{one.measure} at layer {one.layer}"
    numbers = f"{one.followed:.3g} in the {one.n_followed} followed prompts, {one.ignored:.3g} in the {one.n_ignored}"
    tail = "" if one.differs else ", no evidence that they differ"
    return f"{what[0].upper()}{what[1:]}: {numbers} ignored ones (medians; {p_value(one.p)}{tail})."


def _influence(found: Supporting) -> Iterator[Finding]:
    if (one := found.influence) is not None:
        sentence = f"Influence of the instruction at the answer, last layer: {one.value:.2g}, {beside(one, OTHER)}."
        yield Finding("attended", one.says, sentence)


def _lens(found: Supporting) -> Iterator[Finding]:
    if not found.lens:
        return
    layers = sorted(found.lens)
    last = found.lens[layers[-1]]
    end = f"the token that follows minus the other, at the last layer: {_logits(last)}"
    ahead = [layer for layer in layers[:-1] if found.lens[layer].says == ABOVE]
    if ahead:
        best = max(ahead, key=lambda layer: found.lens[layer].value - found.lens[layer].control)  # type: ignore[index]
        one = found.lens[best]
        there = f"it is ahead at layer {best}: {_logits(one)}, {p_value(one.p)}"
        yield Finding("lens", ABOVE, f"Logit lens, {last.n} prompts, {end}; {there}.")
    else:
        none = "no evidence that it is ahead at any layer before, and a blank lens is not evidence of absence"
        yield Finding("lens", NONE, f"Logit lens, {last.n} prompts, {end}; {none}.")


def _logits(one: Compared) -> str:
    return f"{one.value - one.control:+.2g} logits ({ends(one)})"


def _sinks(found: Supporting) -> Iterator[Finding]:
    if found.sink is None:
        yield Finding("sinks", "measured", "No position is an attention sink (0 layers).")
        return
    one = found.sink
    read = one.position == 0 and one.stack != "decoder"  # what an encoder-decoder attends to is what its encoder read
    takes = f"; the first token takes {100 * one.mass:.0f} % of the attention at the answer" * read
    whose = f" of the {one.stack}" * bool(one.stack)
    yield Finding(
        "sinks",
        "measured",
        f"Position {one.position}{whose} is an attention sink after {one.layers} layers, from layer {one.layer} on: "
        f"its norm is up to {one.ratio:.0f} times the median{takes}.",
    )


def _methods(found: Supporting) -> Iterator[Finding]:
    if not found.methods:
        why = "of 0 ignored prompts an answer that follows and one that does not were seen"
        yield Finding("methods", NONE, f"Which mild method moves the decision most: no evidence, for {why}.")
        return
    names = list(found.methods)
    best = found.methods[names[0]]
    others = "; ".join(f"{name} {shift(found.methods[name])}" for name in names[1:])
    sentence = f"At a mild strength {names[0]} moves the decision most: {shift(best)} nats towards following"
    tail = {ABOVE: "", BELOW: ", but away from it in most prompts"}.get(
        best.says, ", no evidence that it moves it at all"
    )
    yield Finding("methods", best.says, f"{sentence}{tail}. Others: {others}.")
