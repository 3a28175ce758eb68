"""The verdict: one cause, by rules that stand on the two questions, the test of cause and what repairs the prompts.

In this order, the first that holds:

1. **truncated away**: at least half of the prompts do not hold their instruction where the model reads them; those
   that have none, or are left out because the context is too short for their answers, do not count.
2. **nothing to fix**: at least nine of ten prompts are followed, and the interval of that share is above one half.
3. **wrong template**: another template repairs prompts (exact McNemar test, adjusted).
4. **lost by distance**: the instruction nearer to the answer repairs prompts, and attention to it speaks more for
   following there than in place; unless the words of the context in another order, as long as before, repair prompts
   too, for then it is what the context says and not how long it is.
5. **never attended**: attention to the instruction is less than a quarter of that to control spans of the same length,
   cutting it moves the state at the answer less than a quarter of what cutting them does, and it is not shown to supply
   a quarter of the nats that following needs.
6. **attended but outweighed**: it is not shown to be unattended, and either a push of that attention or another form
   repairs prompts, or cutting it takes away from the margin of following in prompts that are ignored: the instruction
   speaks for following, and something else is stronger.
7. **incapable when instructed**: neither as asked nor in any form or under any push are more than one of ten followed,
   and the interval of each of these shares is below one half.
8. **no evidence**: none of these.

Decodability decides nothing alone: a blank probe is not evidence of absence.
"""

from mechsteer.diagnosis.cases import NOT_CUT
from mechsteer.diagnosis.evidence import ABOVE
from mechsteer.diagnosis.facts import Facts
from mechsteer.diagnosis.forms import NEARER, SHUFFLED, TEMPLATES
from mechsteer.diagnosis.measures.cutting import ALL

TRUNCATED, FOLLOWED, TEMPLATE, DISTANCE = "truncated away", "nothing to fix", "wrong template", "lost by distance"
NEVER, OUTWEIGHED, INCAPABLE = "never attended", "attended but outweighed", "incapable when instructed"
UNKNOWN = "no evidence"
CAUSES = (TRUNCATED, FOLLOWED, TEMPLATE, DISTANCE, NEVER, OUTWEIGHED, INCAPABLE, UNKNOWN)

ENOUGH = 0.9
"""The share of prompts from which on there is nothing to fix."""

HARDLY = 0.1
"""The share up to which a way to ask does not make the model follow."""

HALF = 0.5
"""What an interval must leave out for either of the two to be said: of fewer than six prompts, none does."""


def cut_off(facts: Facts) -> bool:
    """Whether the model cannot read the instruction of half of the prompts that have one, or more."""
    left_out = sum(facts.missing.get(reason, 0) for reason in NOT_CUT)
    cut, asked = sum(facts.missing.values()) - left_out, facts.n - left_out
    return 0 < asked <= 2 * cut


def compliant(facts: Facts) -> bool:
    """Whether so many are followed that there is nothing to explain."""
    return facts.followed is not None and facts.followed.mean >= ENOUGH


def cause_of(facts: Facts) -> str:
    """One of :data:`CAUSES`."""
    if cut_off(facts):
        return TRUNCATED
    if compliant(facts):
        return FOLLOWED if facts.followed is not None and facts.followed.low > HALF else UNKNOWN
    helping = [one.arm for one in facts.others if one.helps]
    if any(name in TEMPLATES for name in helping):
        return TEMPLATE
    nearer = [facts.nearer_pull[name].says for name in helping if name in NEARER and name in facts.nearer_pull]
    if ABOVE in nearer and SHUFFLED not in helping:
        return DISTANCE
    if facts.unattended:
        return NEVER
    if helping or (ALL in facts.pull and facts.pull[ALL].says == ABOVE):
        return OUTWEIGHED
    shares = [*filter(None, [facts.followed]), *(one.followed for one in facts.others)]
    if facts.others and all(one.mean <= HARDLY and one.high < HALF for one in shares):
        return INCAPABLE
    return UNKNOWN
