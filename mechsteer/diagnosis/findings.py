"""The sentences of a diagnosis, each with its number and its uncertainty."""

import math
from collections.abc import Iterator

from mechsteer.diagnosis.cases import NOT_CUT
from mechsteer.diagnosis.evidence import ABOVE, BELOW, LEVEL, NONE
from mechsteer.diagnosis.facts import Better, Facts
from mechsteer.diagnosis.finding import Finding
from mechsteer.diagnosis.measures.cutting import ALL
from mechsteer.diagnosis.verdict import (
    DISTANCE,
    FOLLOWED,
    INCAPABLE,
    NEVER,
    OUTWEIGHED,
    TEMPLATE,
    TRUNCATED,
    UNKNOWN,
    compliant,
)
from mechsteer.diagnosis.wording import beside, ends, p_value, percent

MEANINGS = {
    TRUNCATED: "The model does not read the instruction of at least half of the prompts.",
    FOLLOWED: "The model follows the instruction.",
    TEMPLATE: "The same prompts are followed in another template.",
    DISTANCE: "The instruction is followed where it is near to the answer, and attended to less where it is.",
    NEVER: "The instruction is attended to less than other text of its length, and hardly reaches the answer's state.",
    OUTWEIGHED: "The instruction is read and speaks for following, but something else is stronger.",
    INCAPABLE: "In no form and under no push did the model follow this instruction in more than one of ten prompts.",
    UNKNOWN: "The tests tell no cause apart from the others.",
}

OTHER = "for other text of its length"

FEWEST = 6
"""Prompts that a two-sided exact test needs at least to show anything at .05."""


def meaning(cause: str, facts: Facts) -> str:
    """What a cause means; where there is none, how many more prompts it would take."""
    n = 0 if facts.followed is None else facts.followed.n
    ignored = 0 if facts.followed is None else n - round(facts.followed.mean * n)
    if cause == FOLLOWED and facts.without is not None and _without_says(facts.without) != ABOVE:
        return f"The check passes, {_passes(facts.without)}: no evidence that the model does it for being told."
    if cause == UNKNOWN and facts.followed is None:
        return "No prompt could be asked."
    if cause == UNKNOWN and compliant(facts):
        return f"{n - ignored} of {n} are followed, too few prompts to say that there is nothing to fix: give more."
    if cause == UNKNOWN and ignored < FEWEST:
        few = "1 ignored prompt is" if ignored == 1 else f"{ignored} ignored prompts are"
        return f"{few} too few to tell: a test needs {FEWEST} at least, so give more prompts."
    return MEANINGS[cause]


def _without_says(one: Better) -> str:
    """Whether the instruction makes more prompts pass, or fewer."""
    return NONE if not one.p < LEVEL else ABOVE if one.broken > one.repaired else BELOW


def _passes(one: Better) -> str:
    """How many pass without the instruction: of few prompts, no evidence does not mean that as many do."""
    count, n = round(one.followed.mean * one.followed.n), one.followed.n
    return f"but without the instruction too, for {count} of {n}" if count else f"without the instruction for 0 of {n}"


def findings_of(facts: Facts) -> list[Finding]:
    """Every finding, in the order of the questions."""
    makers = (_reading, _how_often, _forms, _pushes, _attended, _decodable, _cut)
    return [one for make in makers for one in make(facts)]


def _reading(facts: Facts) -> Iterator[Finding]:
    for reason, count in facts.missing.items():
        what = "were left out" if reason in NOT_CUT else "cannot be read with their instruction"
        yield Finding("reading", BELOW, f"{count} of {facts.n} prompts {what}: {reason}.")


def _how_often(facts: Facts) -> Iterator[Finding]:
    if facts.followed is None:
        return
    yield Finding("how often", "measured", f"Followed as asked: {percent(facts.followed)}{_spoilt(facts)}.")
    if facts.repeats:
        yield Finding("how often", "measured", facts.repeats)
    if facts.without is not None:
        one = facts.without
        says = _without_says(one)
        tail = "" if says != NONE else ", no evidence that the instruction makes a difference"
        only = f"{one.broken} prompts with it only, {one.repaired} without it only, {p_value(one.p)}{tail}"
        passes = f"{percent(one.followed)}{_spoilt(one)}"
        yield Finding("how often", says, f"Without the instruction the check passes: {passes}; {only}.")


def _forms(facts: Facts) -> Iterator[Finding]:
    for one in facts.others:
        if one.group == "form":
            tail = _mass_there(facts, one.arm) if one.helps else ""
            yield Finding("form", _says(one), f"{one.arm.capitalize()}: {_told(one)}{tail}.")


def _mass_there(facts: Facts, arm: str) -> str:
    if arm not in facts.nearer_pull:
        return ""
    mass, pull = facts.nearer_mass[arm], facts.nearer_pull[arm]
    attended = f"attention to the instruction is {mass.value:.2g} there, {beside(mass, 'in place')}"
    return f"; {attended}, and adds {pull.value:+.2g} nats to following there, {beside(pull, 'in place')}"


def _pushes(facts: Facts) -> Iterator[Finding]:
    for one in facts.others:
        if one.group == "push":
            nats = one.arm.removeprefix("attention + ")
            yield Finding("push", _says(one), f"Attention to the instruction raised by {nats} nats: {_told(one)}.")


def _told(one: Better) -> str:
    change = f"{one.repaired} repaired, {one.broken} broken, {p_value(one.p)}"
    tail = "" if one.helps else ": no evidence that it helps"
    return f"followed {percent(one.followed)}{_spoilt(one)}; {change}{tail}"


def _spoilt(one: Better | Facts) -> str:
    """The answers that count as not followed, whatever the check says of them."""
    return f", {100 * one.collapsed:.0f} % of the answers collapsed" if one.collapsed else ""


def _says(one: Better) -> str:
    return ABOVE if one.helps else NONE


def _attended(facts: Facts) -> Iterator[Finding]:
    if facts.mass is None or facts.state is None:
        if facts.followed is not None:
            sentence = "no evidence, for 0 of these prompts have text beside the instruction to compare it with"
            yield Finding("attended", NONE, f"Attention to the instruction: {sentence}.")
        return
    yield Finding(
        "attended",
        facts.mass.says,
        f"Attention to the instruction at the answer, mean over layers: {facts.mass.value:.2g}, "
        f"{beside(facts.mass, OTHER)}.",
    )
    layers = {layer: one for layer, one in facts.mass_layers.items() if one.says == ABOVE}
    if layers:
        layer = max(layers, key=lambda place: layers[place].value - layers[place].control)
        one = layers[layer]
        sentence = f"Layer {layer} attends to it most beyond that: {one.value:.2g}, {beside(one, OTHER)}"
        yield Finding("attended", ABOVE, f"{sentence} ({len(layers)} of {len(facts.mass_layers)} layers do).")
    yield Finding(
        "attended",
        facts.state.says,
        f"Cutting all attention to it moves the last state by {facts.state.value:.2g} of its norm, "
        f"{beside(facts.state, OTHER)}.",
    )


def _decodable(facts: Facts) -> Iterator[Finding]:
    found = facts.decodable
    if found is None:
        if facts.followed is not None:
            yield Finding("decodable", NONE, "Decodable? Not tried: too few different prompts without instruction.")
        return
    accuracy = f"{100 * found.accuracy:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f} %, {found.n} states)"
    shuffled = f"shuffled labels {100 * found.shuffled:.0f} % (at most {100 * found.shuffled_most:.0f} % at any layer)"
    controls = f"{shuffled}, attention to it cut {100 * found.cut:.0f} %"
    start = f"A linear probe at layer {found.layer} tells prompts with the instruction from those without: {accuracy}"
    left = "; so it need not have come by attention to it" if found.cut > found.accuracy - 0.1 else ""
    tail = left if found.says == ABOVE else "; no evidence that it can be decoded, which is not evidence that it cannot"
    yield Finding("decodable", found.says, f"{start}; {controls}; {p_value(found.p)}{tail}.")


def _cut(facts: Facts) -> Iterator[Finding]:
    for name, one in facts.answer.items():
        where = "all layers" if name == ALL else f"layers {name}" if "-" in name else f"layer {name}"
        yield Finding(
            "cut",
            one.says,
            f"Cutting attention to it in {where} changes the log-probability of the answer's first tokens by "
            f"{one.value:.2g} nats a token, {beside(one, OTHER)}.",
        )
        pull = facts.pull[name]
        if pull.n and not math.isnan(pull.value):
            known = f"{ends(pull)}, {pull.n} prompts, {p_value(pull.p)}"
            none = "" if pull.says != NONE else "; no evidence that it speaks for following there"
            yield Finding("cut", pull.says, f"In {where} it adds {pull.value:+.2g} nats to following ({known}{none}).")
