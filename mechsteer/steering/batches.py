"""Running prompts batch by batch under an intervention: what generating, scoring and every measurement share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from mechsteer.models import Room, hooked, is_encoder_decoder, pad
from mechsteer.prompts import Batch, Prompt
from mechsteer.sources import batches, begin
from mechsteer.sources.live import places_of_batches
from mechsteer.steering.intervention import BoundEdit, Intervention, attach, check_fired
from mechsteer.steering.sae_conventions import check_prompts
from mechsteer.steering.scope import Step

__all__ = ["Running", "begin", "check_fits", "run_batches", "steps"]


def steps(model: Any, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Step]:
    """Batches of prompts of like length, padded as the model wants them; ``index`` gives their places in the list."""
    for batch, index in batches(model, prompts, batch_size):
        yield Step(batch, decoder_prefix=int(is_encoder_decoder(model)), index=index)


def check_fits(model: Any, prompts: Sequence[Prompt], steer: Intervention) -> None:
    """Refuse an intervention that does not fit the model, or prompts that lack its spans or do not fit its SAEs.

    Raises:
        MechsteerError: saying which and why.
    """
    steer.check(model)
    steer.check_rows(len(prompts))
    check_spans(prompts, steer)
    check_saes(model, prompts, steer)


def check_spans(prompts: Sequence[Prompt], steer: Intervention) -> None:
    """Refuse prompts that lack a span which an edit acts on: before the first batch, and not when theirs comes.

    Raises:
        MechsteerError: saying which span, in which prompt.
    """
    for edit in steer.edits:
        where = str(edit.scope.where)
        spans = {*edit.spans, *([where.removeprefix("span:")] if where.startswith("span:") else ())}
        for place, prompt in enumerate(prompts):
            if edit.scope.rows is None or place in edit.scope.rows:
                for span in spans:
                    prompt.positions(span)


def check_saes(model: Any, prompts: Sequence[Prompt], steer: Intervention) -> None:
    """Refuse prompts that are not like the texts which an intervention's SAEs were trained on.

    Raises:
        MechsteerError: saying which and why.
    """
    for edit in steer.edits:
        if edit.features is not None:
            check_prompts(edit.features.sae, model, prompts, transfer=bool(edit.options.get("transfer")))


@dataclass
class Running:
    """A run under an intervention: what :class:`mechsteer.sources.Steering` promises to those below.

    Attributes:
        steer: The intervention.
        model: The model.
        bound: The edits that were on the model so far.
    """

    steer: Intervention
    model: Any
    bound: list[BoundEdit] = field(default_factory=list)

    @contextmanager
    def on(self, batch: Batch, index: Sequence[int]) -> Iterator[Step]:
        """Put the edits on the model for a batch of prompts, whose places in the caller's list are ``index``."""
        step = Step(batch, decoder_prefix=int(is_encoder_decoder(self.model)), index=index)
        step.edits = edits = self.steer.bind(self.model, step)
        self.bound += edits
        with hooked(self.model, attach(edits, self.model)):
            yield step

    def check_fired(self) -> None:
        """Raise if an edit never acted."""
        check_fired(self.bound, self.model)


def run_batches(
    model: Any,
    prompts: Sequence[Prompt],
    run: Callable[[Step], None],
    *,
    steer: Intervention,
    batch_size: int,
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
    again: Callable[[], object] | None = None,
    progress: str = "",
) -> None:
    """Call ``run`` for each batch while the intervention and the hooks are on the model.

    A batch for which memory does not suffice is run in halves, where that can be: ``run`` is then called again.

    Args:
        model: A loaded model.
        prompts: The prompts.
        run: Does the forward passes of one batch, from the state that :func:`begin` makes.
        steer: The intervention; :class:`Intervention` without edits for none.
        batch_size: Prompts in one batch.
        hooks: Hook functions by full name; put on after the intervention, so that they see what it made.
        again: Called before each batch: lets go of what hooks have kept of one that failed. Without it, a batch that
            hooks read is run once.
        progress: What to call the work in a progress bar; empty for no bar.

    Raises:
        MechsteerError: if the intervention does not fit the model, or never fired.
    """
    under = steer.running(model, prompts)

    def once(index: list[int]) -> None:
        if again is not None:
            again()
        with under.on(pad(model, [prompts[i] for i in index]), index) as step, hooked(model, hooks):
            run(step)
        bar.update(len(index))

    room = Room(batch_size)
    with tqdm(total=len(prompts), desc=progress, unit="prompt", disable=not progress) as bar:
        for places in places_of_batches(prompts, batch_size):
            if hooks and again is None:
                once(places)
            else:
                room.run(places, once)
    under.check_fired()
