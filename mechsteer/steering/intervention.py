"""``Intervention``: named functions at named hook points, in TransformerLens's own ``fwd_hooks`` form, that add up."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.display import rows_of, titled
from mechsteer.errors import MechsteerError, finite, like, listed, shown
from mechsteer.models import (
    Fused,
    check_model,
    is_encoder_decoder,
    loaded_info,
    parse,
    position_stack,
    stacks,
    taken_once,
)
from mechsteer.prompts import Batch, Prompt, PromptLike, batch
from mechsteer.steering.passes import Follower, followed
from mechsteer.steering.registry import METHODS, find, on_keys, registered
from mechsteer.steering.saes import FeatureEdit
from mechsteer.steering.scope import MAYBE_NOWHERE, Scope, Selection, Step, check_rows, check_stacks, make_scope
from mechsteer.steering.sinks import watch_sinks
from mechsteer.steering.sites import SCORE_KINDS, Target, names

if TYPE_CHECKING:
    import pandas as pd

Hook = tuple[str | Callable[[str], bool], Callable[..., Tensor | None]]


@dataclass(frozen=True)
class Where:
    """Where an edit acts in one activation.

    Attributes:
        queries: The positions that its scope means: True for all, or a mask ``[rows, positions]``; never False.
        site: The full name of the hook point.
        step: The forward pass; None when hooks were made without a prompt.
        two_stacks: Whether the model is an encoder-decoder.
        reached: The hook points that the edit has been called at.
    """

    queries: Selection
    site: str
    step: Step | None
    two_stacks: bool
    reached: frozenset[str] = frozenset()

    def columns(self, scopes: Sequence[Scope], count: int, device: torch.device) -> Bool[Tensor, "rows keys"]:
        """The keys that any of the scopes means, as a mask over the last ``count`` keys so far.

        Raises:
            MechsteerError: if there is no prompt to resolve them against, a prompt lacks a span, or two of them
                overlap.
        """
        if self.step is None:
            raise MechsteerError("Spans need the prompt: use .hooks(prompt).")
        stack = self.key_stack()
        total = torch.zeros(0, dtype=torch.bool)
        for scope in scopes:
            chosen = self.step.select(scope, stack, count)
            if isinstance(chosen, bool):
                chosen = torch.full((len(self.step.rows()), count), chosen)
            if total.numel() and bool((total & chosen).any()):
                raise MechsteerError(f"The spans {', '.join(str(s) for s in scopes)} overlap; steer one of them.")
            total = chosen if not total.numel() else total | chosen
        return total.to(device)

    def stretches(self, scopes: Sequence[Scope], device: torch.device) -> Float[Tensor, "rows"]:
        """Into how many ranges of tokens the scopes' spans fall; 0 in rows that they do not mean."""
        if self.step is None:
            raise MechsteerError("Spans need the prompt: use .hooks(prompt).")
        counts = [sum(self.step.ranges(scope, row) for scope in scopes) for row in self.step.rows()]
        return torch.tensor(counts, dtype=torch.float32, device=device)

    def query_mask(self, rows: int, count: int, device: torch.device) -> Bool[Tensor, "rows positions"]:
        """:attr:`queries` as a mask."""
        if isinstance(self.queries, bool):
            return torch.full((rows, count), self.queries, device=device)
        return self.queries.to(device)

    def key_stack(self) -> str:
        """Whose positions the keys are: cross-attention's are the encoder's."""
        if not self.two_stacks:
            return "blocks"
        parsed = parse(self.site)
        return "decoder" if parsed is not None and parsed[0] == "decoder" and "cross" not in parsed[2] else "encoder"


Apply = Callable[["Edit", Tensor, Where], Tensor | None]


@dataclass(frozen=True, eq=False)
class Edit:
    """One function at one hook point, or at the hook points of one kind.

    Attributes:
        method: Its name, e.g. ``"add"``.
        site: The full name of the hook point, or :class:`Sites`.
        scope: At which (query) positions it acts.
        strength: Its strength, as the method defines it.
        apply: ``apply(edit, x, where)`` returns the edited activation, or None where it has nothing to do.
        spans: The spans whose keys it acts on; attention methods.
        options: What else the method needs; JSON values.
        direction: The vector it uses; vector methods.
        check: ``check(edit, model)`` raises if the edit does not fit the model.
        features: The sparse autoencoder it uses, and what it does to which features; feature edits.
        tensors: What else the method needs that is no JSON value, by name.
    """

    method: str
    site: Target
    scope: Scope
    strength: float
    apply: Apply
    spans: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    direction: Direction | None = None
    check: Callable[["Edit", Any], None] = lambda edit, model: None
    features: FeatureEdit | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))

    def span_scopes(self) -> tuple[Scope, ...]:
        """:attr:`spans` as scopes over the keys, in the rows that are meant: others need not have them."""
        return tuple(Scope(f"span:{span}", self.scope.rows) for span in self.spans)


def in_norms(edit: Edit, norm: float = float("nan")) -> float:
    """What a vector method adds, in norms of the states where it adds it.

    Args:
        edit: The edit.
        norm: The mean norm of the states, for a direction that does not record it.

    Returns:
        NaN where no norm is known, and for other methods.
    """
    length = _added(edit)
    if edit.direction is None or math.isnan(length):
        return float("nan")
    known = edit.direction.activation_norm
    return length / (known if known > 0 else norm or float("nan"))


def _added(edit: Edit) -> float:
    """The length of the vector that an edit adds, as its method's registration says it; NaN if it adds none."""
    known = edit.direction is not None and edit.method in METHODS
    return METHODS[edit.method].adds(edit) if known else float("nan")


def _said_in_norms(edit: Edit) -> str:
    """The same for people: ``?`` where no norm is known, ``-`` for other methods."""
    found = in_norms(edit)
    return "-" if math.isnan(_added(edit)) else "?" if math.isnan(found) else f"{found:.2f}"


@dataclass(eq=False, repr=False)
class BoundEdit:
    """An edit in a running model, with a count of what it did. It is the hook function at all of its hook points."""

    edit: Edit
    step: Step | None
    two_stacks: bool
    reached: set[str] = field(default_factory=set)
    fired: int = 0

    def __call__(self, x: Tensor, hook: Any) -> Tensor | None:
        """The hook function."""
        where = self._where(x.shape, x.device, hook.name)
        if where is None:
            return None
        watch_sinks(self.edit, x, where, hook)
        edited = self.edit.apply(self.edit, x, where)
        self.fired += edited is not None
        return edited

    def fuse(self, fused: Fused, hook: Any) -> bool:
        """Do the same without the scores; see :mod:`mechsteer.models.attention`. False where that cannot be."""
        method = registered(self.edit)
        if method is None or method.fuse is None:
            return False
        shape = torch.Size((fused.rows, 0, fused.queries, fused.keys))
        where = self._where(shape, fused.like.device, hook.name)
        if where is None:
            return True
        done = method.fuse(self.edit, fused, where)
        self.fired += done
        return done

    def _where(self, shape: torch.Size, device: torch.device, site: str) -> Where | None:
        """Where the edit acts in an activation; None if nowhere."""
        self.reached.add(site)
        chosen: Selection = True
        if self.step is not None:
            parsed = parse(site)
            is_scores = parsed is not None and parsed[2] in SCORE_KINDS
            stack = position_stack(site, two_stacks=self.two_stacks)
            chosen = self.step.select(self.edit.scope, stack, shape[2] if is_scores else shape[1])
        if chosen is False:
            return None
        queries = chosen if chosen is True else chosen.to(device)
        return Where(queries, site, self.step, self.two_stacks, frozenset(self.reached))


@dataclass(frozen=True, eq=False)
class Intervention:
    """A steering intervention: one or more edits.

    ``a + b`` applies ``a`` and then ``b`` where both act at one hook point, but for edits of keys, which come before
    those of attention scores; at different hook points the order of the sum does not matter.

    Example:
        >>> both = ms.attention_bias(delta=1.0) + ms.add(direction, 2.0, scope="generated")
        >>> both.explain(model, prompt)
        >>> ms.Intervention.load(both.save("both.safetensors"))
    """

    edits: tuple[Edit, ...] = field(default=())

    @classmethod
    def of(
        cls,
        method: str,
        site: Target,
        strength: float,
        *,
        scope: str | Sequence[int] = "all",
        rows: Sequence[int] | None = None,
        spans: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        direction: Direction | None = None,
        features: FeatureEdit | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> "Intervention":
        """One edit by a method that is registered (:func:`mechsteer.steering.method`).

        Args:
            method: Its name.
            site: The full name of the hook point, or :class:`Sites`.
            strength: Its strength, as the method defines it.
            scope: At which positions; see :func:`mechsteer.add`.
            rows: Prompts to act on, by their place in the list; None for all.
            spans: The spans whose keys it acts on.
            options: What else it needs; JSON values.
            direction: The vector it uses.
            features: What it does to which features of an SAE.
            tensors: What else it needs, by name.

        Raises:
            MechsteerError: for an unknown method or scope, or a strength that is not finite.
        """
        found = find(method)
        edit = Edit(
            method,
            site,
            make_scope(scope, rows),
            finite("strength", strength),
            found.apply,
            tuple(spans),
            dict(options or {}),
            direction,
            found.check,
            features,
            dict(tensors or {}),
        )
        return cls((edit,))

    def __add__(self, other: "Intervention") -> "Intervention":
        if not isinstance(other, Intervention):
            raise _only_adds(_beside(other))
        return Intervention(self.edits + other.edits)

    def __radd__(self, other: Any) -> "Intervention":
        if isinstance(other, int) and other == 0:  # where sum() begins
            return self
        raise _only_adds(_beside(other))

    def _refuse(self, *other: Any) -> "Intervention":
        """Any other arithmetic: a strength means something else for each method."""
        raise _only_adds("".join(map(_beside, other)))

    __mul__ = __rmul__ = __matmul__ = __truediv__ = __sub__ = __rsub__ = __neg__ = __or__ = __and__ = _refuse

    def __repr__(self) -> str:
        norms = {e: "" if (said := _said_in_norms(e)) in ("-", "?") else f" = {said} norms" for e in self.edits}
        parts = (f"{e.method}({e.site}, strength={e.strength:g}{norms[e]}, scope={e.scope})" for e in self.edits)
        return " + ".join(parts) or "Intervention()"

    def _repr_html_(self) -> str:
        heads = ("method", "site", "scope", "spans", "strength", "in norms of the states", "options")
        rows = [
            (
                e.method,
                e.site,
                e.scope,
                ", ".join(e.spans) or "-",
                e.strength,
                _said_in_norms(e),
                ", ".join(f"{name}={shown(value)}" for name, value in e.options.items()) or "-",
            )
            for e in self.edits
        ]
        return titled("Intervention" if rows else "Intervention without edits", rows_of(rows, heads) if rows else "")

    def check(self, model: Any) -> None:
        """Raise if some edit's hook point is not in the model, is never reached, or does not fit it.

        Raises:
            MechsteerError: with the site, the model's family and the nearest valid names.
        """
        check_model(model)
        with taken_once():
            for edit in self.edits:
                found = names(edit.site, model, edit.method)
                where = {position_stack(name, two_stacks=is_encoder_decoder(model)) for name in found}
                check_stacks(edit.scope, where, f"{edit.method} at {str(edit.site)!r}")
                edit.check(edit, model)

    def check_rows(self, count: int) -> None:
        """Raise if some edit means a row that ``count`` prompts do not have.

        Raises:
            MechsteerError: with the rows.
        """
        for edit in self.edits:
            check_rows(edit.scope, count, f"{edit.method} at {str(edit.site)!r}")

    def hooks(self, prompt: Prompt | Sequence[Prompt] | Batch | None = None) -> list[Hook]:
        """The edits as ``(hook name, function)`` pairs for ``model.run_with_hooks(..., fwd_hooks=...)``.

        Edits of many hook points come with a name filter in place of the name, which TransformerLens accepts.

        Args:
            prompt: The prompt or prompts that will be run, in order, each as one whole sequence. Spans and scopes other
                than ``"all"`` need it, and so does any padded batch (padding is never steered): give the
                :class:`mechsteer.Batch` whose tokens are run, or prompts, which are taken as padded by
                :func:`mechsteer.batch` on the model's own side (left for decoder-only models, right for encoders).
                What is run after it counts as generated, also in the library's own ``generate``, with its cache or
                without, and in several calls of it: the first of the pairs is a function that follows its passes (see
                :mod:`mechsteer.steering.passes`).

        Raises:
            MechsteerError: if an edit needs the prompt and none is given; when run, for other numbers of rows, for
                padding that is not masked, and for a pass whose place comes to light too late.
        """
        if prompt is None:
            return [(bound.edit.site, bound) for bound in self._bound(None, two_stacks=False)]
        step, two_stacks = self._step(prompt)
        edits: list[Hook] = [(bound.edit.site, bound) for bound in self._bound(step, two_stacks=two_stacks)]
        if two_stacks or not edits:
            return edits  # an encoder-decoder has no cached forward in the library
        return [(followed, Follower(step)), *edits]

    def _step(self, prompt: Prompt | Sequence[Prompt] | Batch) -> tuple[Step, bool]:
        """The prompts as one pass, and whether they were made for an encoder-decoder."""
        if isinstance(prompt, Batch):
            prompts = prompt.prompts
        else:
            prompts = (prompt,) if isinstance(prompt, Prompt) else tuple(listed("prompt", prompt))
            for one in prompts:
                if not isinstance(one, Prompt):
                    raise MechsteerError(f"Hooks need prompts that mechsteer.prompt makes, got {shown(one)}.")
        two_stacks = any(p.encoder_decoder for p in prompts)
        padded = prompt if isinstance(prompt, Batch) else batch(prompts, side="right" if two_stacks else "left")
        self.check_rows(len(prompts))
        return Step(padded, decoder_prefix=int(two_stacks)), two_stacks

    def bind(self, model: Any, step: Step | None) -> list[BoundEdit]:
        """The edits tied to a model and to the step that its passes are announced to; each is a hook function.

        Raises:
            MechsteerError: if an edit depends on the prompt and there is no step.
        """
        return self._bound(step, two_stacks=is_encoder_decoder(model))

    def _bound(self, step: Step | None, *, two_stacks: bool) -> list[BoundEdit]:
        if step is None:
            for edit in self.edits:
                if edit.scope != Scope() or edit.spans:
                    part = f"span {' '.join(edit.spans)!r}" if edit.spans else f"scope {str(edit.scope)!r}"
                    raise MechsteerError(
                        f"The {part} of {edit.method} at {edit.site} depends on the prompt: use .hooks(prompt)."
                    )
        in_order = sorted(self.edits, key=lambda edit: not on_keys(edit))  # a stable sort
        return [BoundEdit(edit, step, two_stacks) for edit in in_order]

    # The methods below stand in modules of their own, which need this one: they are imported when they are called.

    def running(self, model: Any, prompts: Sequence[Prompt]) -> Any:
        """Begin a run of prompts under the edits; see :class:`mechsteer.steering.batches.Running`.

        Raises:
            MechsteerError: if they do not fit the model or the prompts.
        """
        from mechsteer.steering.batches import Running, check_fits

        check_fits(model, prompts, self)
        return Running(self, model)

    def explain(self, model: Any, prompt: PromptLike) -> "pd.DataFrame":
        """What each edit does to one prompt; see :func:`mechsteer.steering.explain.explain`."""
        from mechsteer.steering.explain import explain

        return explain(self, model, prompt)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all edits to one safetensors file; see :func:`mechsteer.steering.store.save`."""
        from mechsteer.steering.store import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Intervention":
        """Read what :meth:`save` wrote; see :func:`mechsteer.steering.store.load`."""
        from mechsteer.steering.store import load

        return load(path)


def _beside(other: Any) -> str:
    return f"; got {shown(other)} beside one"


def _only_adds(got: str = "") -> MechsteerError:
    """The error for arithmetic that interventions do not have."""
    return MechsteerError(
        f"Interventions only add up, a + b or sum([a, b]){got}. A strength is given where one is made, e.g. "
        "ms.add(direction, 2 * scale); a strategy as strategy=."
    )


def several(value: Any) -> str:
    """What to do with several interventions in the place of one, a name, what makes one, or a strategy."""
    if isinstance(value, list | tuple) and any(isinstance(one, Intervention) for one in value):
        return " Interventions add up and act from left to right: a + b."
    if isinstance(value, str):
        return like(value)
    if callable(value) and hasattr(value, "__name__"):
        return f" Call it: {value.__name__}(...)."
    return " A strategy is given as strategy=." if hasattr(value, "chooser") else ""


def as_intervention(steer: Any) -> Intervention:
    """The intervention, or the empty one for None.

    Raises:
        MechsteerError: for anything else, such as a direction.
    """
    if steer is None:
        return Intervention()
    if not isinstance(steer, Intervention):
        raise MechsteerError(
            f"steer must be an intervention, e.g. ms.add(direction, 8.0), got {shown(steer)}.{several(steer)}"
        )
    return steer


def side_by_side(steers: Sequence[Intervention | None], size: int | Sequence[int]) -> Intervention:
    """Interventions for one list in which some prompts stand for each of them, one after another.

    Edits of chosen rows keep them, counted from where their prompts begin.

    Args:
        steers: One for each time that prompts stand there; None for none.
        size: How many prompts each of them has, or one number for all.
    """
    edits: list[Edit] = []
    sizes = [size] * len(steers) if isinstance(size, int) else list(size)
    for steer, begin, count in zip(steers, accumulate(sizes, initial=0), sizes, strict=False):
        for edit in steer.edits if steer is not None else ():
            rows = range(count) if edit.scope.rows is None else edit.scope.rows
            edits.append(replace(edit, scope=replace(edit.scope, rows=tuple(begin + row for row in rows))))
    return Intervention(tuple(edits))


def attach(bound: Sequence[BoundEdit], model: Any) -> list[tuple[str, BoundEdit]]:
    """The bound edits at each of their hook points in a model, in order."""
    return [(name, item) for item in bound for name in names(item.edit.site, model, item.edit.method)]


def check_fired(bound: Sequence[BoundEdit], model: Any) -> None:
    """Raise if an edit never acted: the run would silently have been an unsteered one.

    An edit in the scope ``"generated"`` or ``"content"`` may find nothing to do (one new token only); every other one
    must have acted.

    Raises:
        MechsteerError: with the site, the family, and layers that are there.
    """
    counts: dict[int, tuple[Edit, int, int]] = {}
    for item in bound:  # one bound edit a batch
        _, reached, fired = counts.get(id(item.edit), (item.edit, 0, 0))
        counts[id(item.edit)] = (item.edit, reached + len(item.reached), fired + item.fired)
    for edit, reached, fired in counts.values():
        if reached == 0:
            raise MechsteerError(
                f"{edit.method} at {str(edit.site)!r} never fired: this {loaded_info(model).family} model did not pass "
                f"that hook point. Stacks: {stacks(model)}."
            )
        if fired == 0 and edit.scope.where not in MAYBE_NOWHERE:
            raise MechsteerError(
                f"{edit.method} at {str(edit.site)!r} never fired: its scope {str(edit.scope)!r} met no position of "
                "the prompts."
            )
