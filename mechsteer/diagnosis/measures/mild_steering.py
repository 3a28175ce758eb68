"""Which single method, at a mild strength, moves the decision most? By the margin of the deciding tokens, in nats.

No answer is generated and no strength chosen here: GUIDE at 1 nat, SpotLight at its paper's .1, key scaling by 2, half
of the mean difference that the instruction itself makes (at the layer that tells it best; made of the same prompts,
without a look at their answers), and the instruction behind the task. What a method spoils is not measured.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.diagnosis.cases import SPAN
from mechsteer.diagnosis.decision import Decision, margins
from mechsteer.directions import difference_in_means
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, add, attention_bias, scale_keys, spotlight

if TYPE_CHECKING:
    import pandas as pd

HALF = 0.5
COLUMNS = ["place", "method", "shift"]


def mild_methods(
    model: Any,
    prompts: Sequence[Prompt],
    last: Sequence[Prompt | None],
    pairs: list[tuple[Prompt, Prompt]],
    decisions: Sequence[Decision | None],
    *,
    layer: int | None,
    batch_size: int,
) -> "pd.DataFrame":
    """How far each method moves the margin.

    Args:
        model: A loaded model.
        prompts: The prompts.
        last: The same with the instruction behind the task, where there is such a form.
        pairs: With and without the instruction, for the vector.
        decisions: The tokens that decide.
        layer: The vector's layer; None for no vector.
        batch_size: Prompts computed together.

    Returns:
        One row a method and prompt with a decision: columns place, method, shift (nats towards following).
    """
    import pandas as pd

    known = [place for place, one in enumerate(decisions) if one is not None]
    if not known:
        return pd.DataFrame(columns=COLUMNS)
    deciding = [decisions[place] for place in known]
    chosen = [prompts[place] for place in known]
    before = margins(model, chosen, deciding, batch_size=batch_size)
    frames = []
    for name, make in _methods(model, pairs, layer, batch_size).items():
        after = margins(model, chosen, deciding, steer=make(), batch_size=batch_size)
        frames.append(_frame(known, name, before, after))
    there = [number for number, place in enumerate(known) if last[place] is not None]
    moved = [one for number in there if (one := last[known[number]]) is not None]
    if moved:
        after = margins(model, moved, [deciding[number] for number in there], batch_size=batch_size)
        frames.append(_frame([known[n] for n in there], "instruction last", [before[n] for n in there], after))
    return pd.concat(frames, ignore_index=True)


def _methods(
    model: Any, pairs: list[tuple[Prompt, Prompt]], layer: int | None, batch_size: int
) -> dict[str, Callable[[], Intervention]]:
    made: dict[str, Callable[[], Intervention]] = {
        "GUIDE, 1 nat": lambda: attention_bias(SPAN, 1.0),
        "SpotLight, .1": lambda: spotlight(SPAN, 0.1),
        "keys times 2": lambda: scale_keys(SPAN, 2.0),
    }
    if layer is not None:
        direction = difference_in_means(model, pairs, layer=layer, batch_size=batch_size)
        norm = HALF * float(direction.vector.norm())
        made[f"vector, half, layer {layer}"] = lambda: add(direction, norm, scope="content")
    return made


def _frame(places: Sequence[int], name: str, before: Sequence[float], after: Sequence[float]) -> "pd.DataFrame":
    import pandas as pd

    shift = [b - a for a, b in zip(before, after, strict=True)]
    return pd.DataFrame({"place": list(places), "method": name, "shift": shift})
