"""What the explorer computes, one visible step after another, without any page.

A step is the name of a part of the page and its new content. Between two steps the model carries no hooks, so that
several people at several pages can take turns on one model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.analysis import influence
from mechsteer.decoding import Generation, stream
from mechsteer.errors import MechsteerError
from mechsteer.explorer.methods import control
from mechsteer.explorer.setting import Plan, Setting, answer, plan
from mechsteer.explorer.views import answer_view, grid_view, influence_view, note_view, token_table
from mechsteer.models import advance, predicting_stack
from mechsteer.prompts import Prompt
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

if TYPE_CHECKING:
    import pandas as pd

Update = tuple[str, str]
"""The name of a part of the page, and its HTML; of ``code``, Python."""

TOP = 6
"""How many tokens of each distribution are shown."""

_NOT_SHOWN = "DIRECTER chooses among the unsteered model's tokens: there is no steered distribution."


@dataclass
class Desk:
    """A model, and the unsteered answers of the prompts that were asked last.

    Attributes:
        model: The model.
        unsteered: Unsteered answers by text, template and length; the last few.
    """

    model: Any
    unsteered: dict[tuple[str, bool | None, int], str] = field(default_factory=dict)

    def answers(self, setting: Setting) -> Iterator[Update]:
        """All that a setting shows: its Python, the answers token by token, the next tokens, Influence."""
        yield "note", ""
        try:
            made = plan(self.model, setting)
            yield "code", made.code()
            yield from self._answers(made)
            yield "tokens", self._tokens(made)
            yield "influence", self._influence(made)
        except MechsteerError as error:
            yield "note", note_view(str(error))

    def grid(self, setting: Setting) -> Iterator[Update]:
        """Answers at the strengths of the method's grid, one after the other."""
        method = control(setting.method, setting.direction)
        try:
            before, cards = self._unsteered(setting), []
            for strength in method.grid:
                *_, last = self._stream(plan(self.model, replace(setting, strength=strength)))
                cards.append((strength, answer(last)))
                yield "grid", grid_view(method.strength, cards, before)
        except MechsteerError as error:
            yield "note", note_view(str(error))

    def _answers(self, made: Plan) -> Iterator[Update]:
        """Both answers, a token of each in turn, the steered one first; then what changed."""
        known = self.unsteered.get(_key(made.setting))
        sides = {"steered": self._stream(made)}
        if known is None:
            sides["unsteered"] = self._plain(made)
        texts = {"unsteered": known or ""}
        if known is not None:
            yield "unsteered", answer_view(known)
        for side, written in _in_turns(sides):
            texts[side] = answer(written)
            yield side, answer_view(texts[side])
        self._keep(made.setting, texts["unsteered"])
        yield "steered", answer_view(texts["steered"], texts["unsteered"])

    def _stream(self, made: Plan) -> Iterator[Generation]:
        return stream(self.model, made.prompts, max_new_tokens=made.setting.max_new_tokens, **made.steering)

    def _plain(self, made: Plan) -> Iterator[Generation]:
        return stream(self.model, made.variables["prompt"], max_new_tokens=made.setting.max_new_tokens)

    def _unsteered(self, setting: Setting) -> str:
        known = self.unsteered.get(_key(setting))
        if known is None:
            *_, last = self._plain(plan(self.model, setting))
            known = answer(last)
            self._keep(setting, known)
        return known

    def _keep(self, setting: Setting, text: str) -> None:
        self.unsteered[_key(setting)] = text
        while len(self.unsteered) > 20:
            del self.unsteered[next(iter(self.unsteered))]

    def _tokens(self, made: Plan) -> str:
        if "steer" not in made.steering:
            return f'<p class="faint">{_NOT_SHOWN}</p>'
        return token_table(next_tokens(self.model, made.prompts, made.steering["steer"]))

    def _influence(self, made: Plan) -> str:
        setting, prompt = made.setting, made.variables["prompt"]
        if "steer" not in made.steering or setting.frozen:
            return '<p class="faint">Influence is that of the unsteered model.</p>'
        if "instruction" not in prompt.spans:
            return '<p class="faint">No instruction is marked.</p>'
        return influence_view(influence_by_layer(self.model, prompt, made.steering["steer"]))


def _key(setting: Setting) -> tuple[str, bool | None, int]:
    return setting.text, setting.chat, setting.max_new_tokens


def _in_turns(sides: Mapping[str, Iterator[Generation]]) -> Iterator[tuple[str, Generation]]:
    running = dict(sides)
    while running:
        for side, written in list(running.items()):
            made = next(written, None)
            if made is None:
                del running[side]
            else:
                yield side, made


def next_tokens(model: Any, prompts: list[Prompt], steer: Intervention) -> "pd.DataFrame":
    """The most likely first tokens, unsteered or steered.

    Args:
        model: A loaded model.
        prompts: One prompt, or what an intervention on several rows needs; the last is meant.
        steer: An intervention.

    Returns:
        One row a token that is among the first of one of the distributions: token (its text), unsteered and steered
        (probabilities); the largest first.
    """
    import pandas as pd

    plain = _first_logits(model, prompts[-1:], None)[-1].softmax(-1)
    steered = _first_logits(model, prompts, steer)[-1].softmax(-1)
    ids = sorted({*plain.topk(TOP).indices.tolist(), *steered.topk(TOP).indices.tolist()})
    rows = [(token_pieces(model.tokenizer, [i])[0], float(plain[i]), float(steered[i])) for i in ids]
    table = pd.DataFrame(rows, columns=["token", "unsteered", "steered"])
    order = table[["unsteered", "steered"]].max(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


@torch.no_grad()
def _first_logits(model: Any, prompts: list[Prompt], steer: Intervention | None) -> Float[Tensor, "prompts d_vocab"]:
    found = torch.zeros(len(prompts), model.cfg.d_vocab)

    def run(step: Step) -> None:
        index = list(step.index or range(len(step.batch)))
        found[index] = advance(model, *begin(model, step))[:, -1].float().cpu()

    run_batches(model, prompts, run, steer=as_intervention(steer), batch_size=len(prompts))
    return found


def influence_by_layer(model: Any, prompt: Prompt, steer: Intervention) -> "pd.DataFrame":
    """Influence of the instruction on the position that predicts the first token.

    Returns:
        One row a layer and answer: layer, answer (unsteered, steered), influence.
    """
    import pandas as pd

    parts = []
    for name, acting in (("unsteered", None), ("steered", steer)):
        table = influence(model, prompt, steer=acting)
        table = table[table["stack"] == predicting_stack(model)[0]]
        last = table[table["position"] == table["position"].max()]
        parts.append(last[["layer", "influence"]].assign(answer=name))
    return pd.concat(parts, ignore_index=True)
