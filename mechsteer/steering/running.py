"""Running prompts batch by batch under an intervention: what generating, scoring and every measurement share."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from mechsteer.errors import positive_int
from mechsteer.models import State, first_tokens, hooked, is_encoder_decoder, pad, start
from mechsteer.prompts import Prompt
from mechsteer.steering.intervention import BoundEdit, Intervention, attach, check_fired
from mechsteer.steering.sae_conventions import check_prompts
from mechsteer.steering.scope import Step


def steps(model: Any, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Step]:
    """Batches of prompts of like length, padded as the model wants them; ``index`` gives their places in the list."""
    positive_int("batch_size", batch_size)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        padded = pad(model, [prompts[i] for i in index])
        yield Step(padded, decoder_prefix=int(is_encoder_decoder(model)), index=index)


def check_fits(model: Any, prompts: Sequence[Prompt], steer: Intervention) -> None:
    """Refuse an intervention that does not fit the model, or prompts that do not fit its SAEs.

    Raises:
        MechsteerError: saying which and why.
    """
    steer.check(model)
    for edit in steer.edits:
        if edit.features is not None:
            check_prompts(edit.features.sae, model, prompts, transfer=bool(edit.options.get("transfer")))


def run_batches(
    model: Any,
    prompts: Sequence[Prompt],
    run: Callable[[Step], None],
    *,
    steer: Intervention,
    batch_size: int,
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
    progress: str = "",
) -> None:
    """Call ``run`` for each batch while the intervention and the hooks are on the model.

    Args:
        model: A loaded model.
        prompts: The prompts.
        run: Does the forward passes of one batch, from the state that :func:`begin` makes.
        steer: The intervention; :class:`Intervention` without edits for none.
        batch_size: Prompts in one batch.
        hooks: Hook functions by full name; put on after the intervention, so that they see what it made.
        progress: What to call the work in a progress bar; empty for no bar.

    Raises:
        MechsteerError: if the intervention does not fit the model, or never fired.
    """
    check_fits(model, prompts, steer)
    bound: list[BoundEdit] = []
    with tqdm(total=len(prompts), desc=progress, unit="prompt", disable=not progress) as bar:
        for step in steps(model, prompts, batch_size):
            step.edits = edits = steer.bind(model, step)
            bound += edits
            with hooked(model, [*attach(edits, model), *hooks]):
                run(step)
            bar.update(len(step.batch))
    check_fired(bound, model)


def begin(model: Any, step: Step) -> tuple[State, torch.Tensor, torch.Tensor]:
    """The state of a batch, which announces its passes to the step, and the tokens and mask of the first.

    What follows is ``advance(model, state, tokens, mask)`` or ``residual(...)``, as often as is wanted.
    """
    state = start(model, step.batch.tokens, step.batch.mask)
    state.announce = step.begin
    return state, *first_tokens(model, step.batch)
