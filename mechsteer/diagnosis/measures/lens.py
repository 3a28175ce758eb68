"""The logit lens on the tokens that decide: from which layer on is the one that follows, or the other, ahead?

Each prompt is continued by what both answers share (:mod:`mechsteer.diagnosis.decision`), and the residual
stream that predicts the next token is read out after every block (:func:`mechsteer.logit_lens`). A lens that shows
nothing is not evidence of absence: early streams need not be in the read-out's terms.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.lens import logit_lens
from mechsteer.diagnosis.decision import Decision
from mechsteer.errors import MechsteerError
from mechsteer.models import continuation_ids
from mechsteer.prompts import Prompt

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["place", "layer", "token", "role", "rank", "probability", "logit"]


def deciding_lens(
    model: Any, prompts: Sequence[Prompt], decisions: Sequence[Decision | None], batch_size: int
) -> "pd.DataFrame":
    """Both deciding tokens after every block.

    Returns:
        One row a prompt, layer (-1: the embeddings) and token: columns place, layer, token, role (``follow`` or
        ``ignore``), rank (from 1), probability, logit. Prompts without a decision, or whose shared tokens are not the
        tokenizer's own of their text, are left out.
    """
    import pandas as pd

    frames = []
    known = [(place, one, _text(model, prompts[place], one)) for place, one in enumerate(decisions) if one is not None]
    for shared in (False, True):  # an empty text is no continuation
        chosen = [(place, one, text) for place, one, text in known if text is not None and bool(text) == shared]
        if not chosen:
            continue
        table = logit_lens(
            model,
            [prompts[place] for place, _, _ in chosen],
            [[one.follow, one.ignore] for _, one, _ in chosen],
            continuation=[text or "" for _, _, text in chosen] if shared else None,
            batch_size=batch_size,
        )
        roles = {place: {one.follow: "follow", one.ignore: "ignore"} for place, (_, one, _) in enumerate(chosen)}
        pairs = zip(table["prompt"], table["token_id"], strict=True)
        table = table.assign(role=[roles[place][token] for place, token in pairs])
        frames.append(table.assign(place=[chosen[place][0] for place in table["prompt"]]))
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(frames)[COLUMNS].sort_values(["place", "layer", "role"], kind="stable").reset_index(drop=True)


def _text(model: Any, prompt: Prompt, one: Decision) -> str | None:
    """What both answers share as a text; None where its tokens would be others."""
    if not one.shared:
        return ""
    text = model.tokenizer.decode(list(one.shared))
    try:
        return text if continuation_ids(model, text, prompt) == list(one.shared) else None
    except MechsteerError:
        return None
