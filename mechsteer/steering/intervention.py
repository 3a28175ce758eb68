"""``Intervention``: named functions at named hook points, in TransformerLens's own ``fwd_hooks`` form, that add up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mechsteer.errors import MechsteerError, unknown
from mechsteer.models import fires, model_info, position_stack, stacks
from mechsteer.prompts import Batch, Prompt, batch
from mechsteer.steering.scope import Scope, Selection, Step

if TYPE_CHECKING:
    import pandas as pd

Hook = tuple[str, Callable[..., Tensor | None]]


@dataclass(frozen=True, eq=False)
class Edit:
    """One function at one hook point.

    Attributes:
        method: Its name, e.g. ``"add"``.
        site: The full name of the hook point.
        scope: Where it acts.
        strength: Its strength, as the method defines it.
        apply: ``apply(x, selection)`` returns the edited activation; ``selection`` is True for all positions or a mask
            ``[rows, positions]`` and never False.
        check: ``check(model)`` raises if the edit does not fit the model.
    """

    method: str
    site: str
    scope: Scope
    strength: float
    apply: Callable[[Tensor, Selection], Tensor]
    check: Callable[[Any], None] = lambda model: None


@dataclass(eq=False, repr=False)
class BoundEdit:
    """An edit in a running model, with a count of what it did."""

    edit: Edit
    step: Step | None
    stack: str
    reached: int = 0
    fired: int = 0

    def __call__(self, x: Tensor, hook: Any = None) -> Tensor | None:
        """The hook function."""
        self.reached += 1
        if self.step is None:
            chosen: Selection = True
        else:
            chosen = self.step.select(self.edit.scope, self.stack, x.shape[1])
        if chosen is False:
            return None
        self.fired += 1
        return self.edit.apply(x, chosen if chosen is True else chosen.to(x.device))


@dataclass(frozen=True, eq=False)
class Intervention:
    """A steering intervention: one or more edits.

    ``a + b`` applies ``a`` and then ``b`` where both act at one hook point; at different hook points the order of the
    sum does not matter.
    """

    edits: tuple[Edit, ...] = field(default=())

    def __add__(self, other: "Intervention") -> "Intervention":
        if not isinstance(other, Intervention):
            return NotImplemented
        return Intervention(self.edits + other.edits)

    def __repr__(self) -> str:
        parts = (f"{e.method}({e.site}, strength={e.strength:g}, scope={e.scope})" for e in self.edits)
        return " + ".join(parts) or "Intervention()"

    def check(self, model: Any) -> None:
        """Raise if some edit's hook point is not in the model, is never reached, or does not fit it.

        Raises:
            MechsteerError: with the site, the model's family and the nearest valid names.
        """
        for edit in self.edits:
            if edit.site not in model.hook_dict:
                raise unknown(f"site for this {model_info(model).family} model", edit.site, model.hook_dict)
            if not fires(model, edit.site):
                raise MechsteerError(
                    f"{edit.site!r} is never reached in this {model_info(model).family} model with its present "
                    f"settings, so {edit.method} would do nothing."
                )
            edit.check(model)

    def hooks(self, prompt: Prompt | Sequence[Prompt] | Batch | None = None) -> list[Hook]:
        """The edits as ``(hook name, function)`` pairs for ``model.run_with_hooks(..., fwd_hooks=...)``.

        Args:
            prompt: The prompt or prompts that will be run, in order, each as one whole sequence. Scopes other than
                ``"all"`` need it, and so does any padded batch (padding is never steered): give the
                :class:`mechsteer.Batch` whose tokens are run, or prompts, which are taken as padded by
                :func:`mechsteer.batch` on the model's own side (left for decoder-only models, right for encoders).

        Raises:
            MechsteerError: if a scope needs the prompt and none is given.
        """
        step = None if prompt is None else self._step(prompt)
        return [(bound.edit.site, bound) for bound in self.bind(step)]

    def _step(self, prompt: Prompt | Sequence[Prompt] | Batch) -> Step:
        two_stacks = any(edit.site.startswith(("encoder", "decoder")) for edit in self.edits)
        if not isinstance(prompt, Batch):
            prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
            prompt = batch(prompts, side="right" if two_stacks else "left")
        return Step(prompt, decoder_prefix=1 if two_stacks else 0)

    def bind(self, step: Step | None) -> list[BoundEdit]:
        """The edits tied to the step that a loop keeps up to date; a bound edit is a hook function."""
        if step is None:
            for edit in self.edits:
                if edit.scope != Scope():
                    raise MechsteerError(
                        f"The scope {str(edit.scope)!r} of {edit.method} at {edit.site} depends on the prompt: "
                        "use .hooks(prompt)."
                    )
        two_stacks = step is not None and step.decoder_prefix > 0
        return [BoundEdit(edit, step, position_stack(edit.site, two_stacks=two_stacks)) for edit in self.edits]

    def explain(self, model: Any, prompt: str | Prompt) -> "pd.DataFrame":
        """What each edit does to one prompt; see :func:`mechsteer.steering.explain.explain`."""
        from mechsteer.steering.explain import explain

        return explain(self, model, prompt)


def check_fired(bound: Sequence[BoundEdit], model: Any) -> None:
    """Raise if an edit never acted: the run would silently have been an unsteered one.

    An edit in the scope ``"generated"`` may find nothing to do (one new token only); every other one must have acted.

    Raises:
        MechsteerError: with the site, the family, and layers that are there.
    """
    counts: dict[int, tuple[Edit, int, int]] = {}
    for item in bound:  # one bound edit a batch
        _, reached, fired = counts.get(id(item.edit), (item.edit, 0, 0))
        counts[id(item.edit)] = (item.edit, reached + item.reached, fired + item.fired)
    for edit, reached, fired in counts.values():
        if reached == 0:
            raise MechsteerError(
                f"{edit.method} at {edit.site!r} never fired: this {model_info(model).family} model did not pass "
                f"that hook point. Stacks: {stacks(model)}."
            )
        if fired == 0 and edit.scope.where != "generated":
            raise MechsteerError(
                f"{edit.method} at {edit.site!r} never fired: its scope {str(edit.scope)!r} met no position of the "
                "prompts."
            )
