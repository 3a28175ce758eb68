"""The ranks of named tokens through the layers at one decoding step, as DoLa sees them (arXiv 2512.03803v2, Figure 5).

At every early exit the tokens are ranked by that exit's own logits, read out as the chosen form of DoLa reads them, and
penalised as its scores are; above them the last layer, and on top DoLa's own scores. As in the figure, each exit has
its divergence from the last layer.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis.distributions import ranks
from mechsteer.decoding import DoLa, Pass, Strategy, generate
from mechsteer.decoding.dola import Contrast
from mechsteer.decoding.repetition import penalised, read_so_far
from mechsteer.errors import MechsteerError
from mechsteer.models import predicting_stack, word_id
from mechsteer.prompts import Prompt, PromptLike, prompt
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches
from mechsteer.tasks import IFEval, MemoTrap

if TYPE_CHECKING:
    import pandas as pd

FIGURE_5 = ("Explain Generative Adversarial Networks", ("lacking", "generally", "both"))
"""The paper's prompt, and the tokens that it follows; the step is where DoLa writes the first of them."""


@torch.no_grad()
def track(
    model: Any,
    text: PromptLike,
    words: Sequence[str],
    *,
    strategy: DoLa | None = None,
    step: int = 0,
    steer: Intervention | None = None,
) -> "pd.DataFrame":
    """Follow words through the layers at one step of DoLa's own text.

    Args:
        model: A loaded model.
        text: The prompt.
        words: Each stands for its first token behind the text that is written.
        strategy: Default: ``DoLa()``. Its candidates are the exits that are shown.
        step: Which new token, from 0.
        steer: An intervention.

    Returns:
        One row a distribution and word: prompt, step, written (the text before), distribution (``"dola"``, ``"final"``
        or ``"exit"``), layer, word, token, rank (from 1; empty where DoLa leaves the token out), jsd (of an exit, from
        the last layer), chosen (whether DoLa contrasts with this exit).

    Raises:
        MechsteerError: if DoLa's text is shorter than that, or a word has no token.
    """
    strategy = strategy or DoLa()
    made = text if isinstance(text, Prompt) else prompt(model, text)
    written: list[int] = []
    if step > 0:
        out = generate(model, made, steer=steer, strategy=strategy, max_new_tokens=step)
        written = out.tokens[0, : out.lengths[0]].tolist()
        if len(written) < step or out.trace["token"].tolist() != written:
            raise MechsteerError(f"DoLa writes {len(written)} tokens after this prompt; there is no step {step}.")
    before = model.tokenizer.decode(written)
    tokens = {word: word_id(model, word, made, written=before) for word in words}
    rows: list[dict[str, Any]] = []

    def look(at: Step) -> None:
        state, first, mask = begin(model, at)
        extended = torch.cat([first, torch.tensor([written], dtype=torch.long)], dim=1)
        mask = torch.cat([mask, torch.ones((1, len(written)), dtype=torch.bool)], dim=1)
        current = Pass(model, state, extended, mask, at, [0], [written])
        rows.extend(_rows(strategy.chooser(model), current, tokens))

    run_batches(model, [made], look, steer=as_intervention(steer), batch_size=1)
    import pandas as pd

    table = pd.DataFrame(rows).astype({"rank": "Int64"})
    texts = {word: token_pieces(model.tokenizer, [token])[0] for word, token in tokens.items()}
    table["token"] = table["word"].map(texts)
    leading = {"prompt": made.text, "step": step, "written": before}
    return table.assign(**leading)[[*leading, "distribution", "layer", "word", "token", "rank", "jsd", "chosen"]]


def _rows(chooser: Contrast, current: Pass, tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """The three kinds of distribution at the last position of a pass."""
    model, penalty = current.model, chooser.settings.repetition_penalty
    seen = read_so_far(model, current.step, current.written)
    found = chooser.contrasted(current)
    named = torch.tensor([list(tokens.values())], device=found.scores.device)

    def ranked(values: Float[Tensor, "1 d_vocab"]) -> list[int | None]:
        kept = torch.isfinite(values.gather(-1, named))[0].tolist()
        return [rank if ok else None for rank, ok in zip(ranks(values, named)[0].tolist(), kept, strict=True)]

    last = predicting_stack(model)[1]
    layers: list[tuple[str, int, list[int | None], float, bool]] = [
        ("dola", last, ranked(found.scores), float("nan"), False),
        ("final", last, ranked(penalised(found.logits, seen, penalty)), float("nan"), False),
    ]
    for place in reversed(range(len(chooser.exits))):
        values = penalised(chooser.exit_logits(model, found.early[place]), seen, penalty)
        divergence, chosen = float(found.divergences[0, place]), place == int(found.place[0])
        layers.append(("exit", chooser.exits[place], ranked(values), divergence, chosen))
    return [
        {"distribution": kind, "layer": layer, "word": word, "rank": rank, "jsd": divergence, "chosen": chosen}
        for kind, layer, places, divergence, chosen in layers
        for word, rank in zip(tokens, places, strict=True)
    ]


def first_token(model: Any, word: str) -> int:
    """The first token of a word behind another word.

    Raises:
        MechsteerError: if there is none.
    """
    return word_id(model, word, written="a")


def tracked(model: Any, tasks: Sequence[Any], methods: Mapping[str, Strategy], samples: Any) -> "pd.DataFrame | None":
    """The study's tracking, for each form of DoLa.

    Of MemoTrap, the first token of the answer to the first trap that this form gets right and the baseline does not (if
    there is none, the first trap); of IFEval, the paper's prompt.

    Args:
        model: A loaded model.
        tasks: What was run.
        methods: The strategies, by name.
        samples: The outputs of :func:`mechsteer.evaluate`, with the method in the column ``decoding``.

    Returns:
        The rows of :func:`track` with ``method`` before them; None where there is nothing to follow.
    """
    import pandas as pd

    found = []
    for method, strategy in methods.items():
        if not isinstance(strategy, DoLa):
            continue
        for task in tasks:
            place = _where(model, task, method, strategy, samples)
            if place is not None:
                text, words, step = place
                table = track(model, text, words, strategy=strategy, step=step)
                table.insert(0, "method", method)
                found.append(table)
    return pd.concat(found, ignore_index=True) if found else None


def _where(
    model: Any, task: Any, method: str, strategy: DoLa, samples: Any
) -> "tuple[str, tuple[str, ...], int] | None":
    """The prompt, the words and the step to look at in a task, if there are any."""
    if isinstance(task, MemoTrap):
        rows = samples[samples["task"] == task.name]
        right = {name: rows.loc[rows["decoding"] == name, "strict"].tolist() for name in ("baseline", method)}
        gained = [i for i, (a, b) in enumerate(zip(right["baseline"], right[method], strict=True)) if b and not a]
        trap = task.samples[gained[0] if gained else 0]
        return trap.prompt, (trap.target, trap.trap), 0
    if isinstance(task, IFEval):
        beginning, words = FIGURE_5
        wanted = first_token(model, words[0])
        for sample in task.samples:
            if sample.prompt.startswith(beginning):
                out = generate(model, sample.prompt, strategy=strategy, max_new_tokens=task.max_new_tokens)
                steps = (out.tokens[0] == wanted).nonzero()[:, 0].tolist()
                return (sample.prompt, words, steps[0]) if steps else None
    return None
