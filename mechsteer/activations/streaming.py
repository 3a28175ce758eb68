"""Running prompts and handing over the chosen rows batch by batch: what capturing, storing and moments share.

The forward pass stops after the last block that is needed. One batch is on the device at a time; its rows are copied to
the CPU before the next one starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.activations.positions import Rows, Where, check_stack, make_positions, no_rows, positions_of, tokens_read
from mechsteer.activations.sites import ENCODER, PREDICTING, READ_OUT, Stage, resolve, stage, width_of
from mechsteer.analysis.propagation.captured import Columns, parse_column
from mechsteer.decoding.loop import Writer, Written
from mechsteer.decoding.processors import processors
from mechsteer.decoding.recorder import Recorder
from mechsteer.decoding.strategies import Greedy, Strategy, as_strategy
from mechsteer.errors import MechsteerError, positive_int, shown, whole
from mechsteer.models import context_of, encode, is_encoder_decoder, model_device, position_stack, residual, unembed
from mechsteer.models.hooking import Hook, Kept
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, begin, run_batches
from mechsteer.steering.sites import names

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Plan:
    """What to read in each forward pass.

    Attributes:
        stacks: For each site, whose positions its rows are: ``"blocks"``, ``"encoder"`` or ``"decoder"``.
        widths: For each site, the sizes of its dimensions after the position.
        where: Which positions.
        end: How far the forward pass goes.
        steer: The intervention.
        generate: How many tokens to generate.
        strategy: How to choose them.
        dtype: What values are converted to.
    """

    stacks: dict[str, str]
    widths: dict[str, tuple[int, ...]]
    where: Where
    end: Stage
    steer: Intervention
    generate: int
    strategy: Strategy
    dtype: torch.dtype


@dataclass(frozen=True)
class BatchRows:
    """The rows of one batch.

    Attributes:
        rows: For each stack, what its rows stand for.
        values: For each site ``[rows, width...]``, on the CPU.
    """

    rows: dict[str, Rows]
    values: dict[str, Tensor]


def make_plan(
    model: Any,
    sites: str | Sequence[str],
    positions: str | Sequence[int],
    steer: Intervention,
    *,
    generate: int = 0,
    strategy: Strategy | None = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """Resolve names and positions, and find out how far to run.

    Under an intervention the pass goes at least as far as that acts, so that one that never fires is noticed.
    """
    chosen = resolve(model, sites)
    where = make_positions(positions)
    two_stacks = is_encoder_decoder(model)
    stacks = {name: position_stack(name, two_stacks=two_stacks) for name in chosen}
    for stack in set(stacks.values()):
        check_stack(where, stack)
    count = whole(generate)
    if count is None or count < 0:
        raise MechsteerError(f"generate must be a number of new tokens, 0 or more, got {shown(generate)}.")
    if strategy is not None and not generate:
        raise MechsteerError("strategy= needs generate=, the number of new tokens.")
    as_strategy(strategy)
    if dtype is not None and dtype not in DTYPES:
        raise MechsteerError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {shown(dtype)}.")
    if any(map(parse_column, chosen)) and (where != "all" or generate):
        raise MechsteerError(
            'Influence and rollout are of all positions of a prompt: use positions="all" without generate=, got '
            f"{where!r} and generate={generate}."
        )
    reached = [*chosen, *(name for edit in steer.edits for name in names(edit.site, model, edit.method))]
    return Plan(
        stacks,
        {name: width_of(model, name) for name in chosen},
        where,
        max(stage(model, name) for name in reached),
        steer,
        count,
        strategy or Greedy(),
        dtype or model.cfg.dtype,
    )


def check_prompts(model: Any, plan: Plan, prompts: Sequence[Prompt]) -> dict[str, int]:
    """The number of rows of each stack (when tokens are generated: the most there can be).

    Raises:
        MechsteerError: if a prompt is longer than the context or lacks a position that is asked for.
    """
    _check_context(model, prompts, plan.generate)
    rows = dict.fromkeys(plan.stacks.values(), 0)
    for stack in rows:
        rows[stack] = sum(len(positions_of(plan.where, p, stack)) for p in prompts)
        if stack != "encoder":
            rows[stack] += max(plan.generate - 1, 0) * len(prompts)
    return rows


def _check_context(model: Any, prompts: Sequence[Prompt], new: int) -> None:
    longest = max(prompts, key=len)
    if not is_encoder_decoder(model) and len(longest) + new > model.cfg.n_ctx:
        with_new = f" and {new} new ones" if new else ""
        raise MechsteerError(
            f"{longest!r} is too long: its {len(longest)} tokens{with_new} exceed this model's context of "
            f"{context_of(model)}."
        )


def stream(
    model: Any,
    prompts: Sequence[Prompt],
    plan: Plan,
    take: Callable[[BatchRows], None],
    *,
    batch_size: int,
    progress: str = "",
) -> None:
    """Call ``take`` with the rows of each batch.

    Raises:
        MechsteerError: for values that are not finite, or an intervention that never fires.
    """
    check_prompts(model, plan, prompts)
    if any(map(parse_column, plan.stacks)):
        batch_size = min(positive_int("batch_size", batch_size), 1)  # they are measured of a prompt alone
    reader = _Generating(model, plan, len(prompts)) if plan.generate else _Prefill(model, plan)

    def run(step: Step) -> None:
        batch = reader.read(step)
        _check_finite(batch, plan, step)
        take(batch)

    run_batches(
        model,
        prompts,
        run,
        steer=plan.steer,
        batch_size=batch_size,
        hooks=reader.hooks(),
        again=reader.forget,
        progress=progress,
    )


class _Prefill:
    """Reads activations of the prompts themselves."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.picks: dict[str, tuple[Tensor, Tensor]] = {}
        self.columns = Columns(model, plan.stacks)
        sites = [site for site in plan.stacks if site not in self.columns.wanted]
        self.kept = Kept(sites, lambda x, site: x[self.picks[plan.stacks[site]]])

    def hooks(self) -> list[Hook]:
        return self.kept.hooks

    def forget(self) -> None:
        self.kept.forget()

    def read(self, step: Step) -> BatchRows:
        rows = {stack: self._choose(step, stack) for stack in dict.fromkeys(self.plan.stacks.values())}
        measured: dict[str, Tensor] = {}
        if self.columns.wanted:
            measured = self.columns.measure(step.batch.prompts[0], lambda: self._run(step))
        else:
            self._run(step)
        found = {  # a norm may fire more than once in a pass: the last counts
            name: measured[name] if name in measured else self.kept.parts(name)[-1] for name in self.plan.stacks
        }
        return BatchRows(rows, {name: values.to("cpu", self.plan.dtype) for name, values in found.items()})

    def _choose(self, step: Step, stack: str) -> Rows:
        """The rows of a batch; notes where in the batch's tensors they lie."""
        rows, in_batch, columns = no_rows(), [], []
        for row, prompt in enumerate(step.batch.prompts):
            positions = positions_of(self.plan.where, prompt, stack)
            tokens = tokens_read(self.model, prompt, stack)
            rows.add(_place(step, row), positions, tokens, len(tokens))
            first = 0 if stack == "decoder" else step.batch.starts[row]
            in_batch += [row] * len(positions)
            columns += [first + p for p in positions]
        device = model_device(self.model)
        self.picks[stack] = torch.tensor(in_batch, device=device), torch.tensor(columns, device=device)
        return rows

    def _run(self, step: Step) -> None:
        phase, blocks = self.plan.end
        if phase == ENCODER:
            device = model_device(self.model)
            encode(self.model, step.batch.tokens.to(device), step.batch.mask.to(device), blocks)
            return
        state, tokens, mask = begin(self.model, step)
        if phase >= PREDICTING:
            resid = residual(self.model, state, tokens, mask, layers=blocks if phase == PREDICTING else None)
            if phase == READ_OUT:
                unembed(self.model, resid)


class _Generating:
    """Reads activations of the prompts and of the tokens generated after them."""

    def __init__(self, model: Any, plan: Plan, prompts: int) -> None:
        self.model, self.plan = model, plan
        self.recorder = Recorder(model, list(plan.stacks), prompts)
        self.chooser = plan.strategy.chooser(model)
        self.applied = processors(model, plan.strategy, plan.generate)

    def hooks(self) -> list[Hook]:
        return self.recorder.hooks()

    def forget(self) -> None:
        self.recorder.forget()
        self.chooser = self.plan.strategy.chooser(self.model)  # what it drew for prompts that are run again

    def read(self, step: Step) -> BatchRows:
        self.recorder.step = step
        places = [_place(step, row) for row in range(len(step.batch))]
        written = {place: Written() for place in places}
        batch, index = step.batch, list(step.index or places)
        Writer(self.model, self.chooser, self.plan.generate, written, applied=self.applied).write(step)
        step.show(batch, index)  # rows that ended have left it
        rows = {stack: no_rows() for stack in self.plan.stacks.values()}
        picks: dict[str, list[list[int]]] = {stack: [] for stack in rows}
        for stack, found in rows.items():
            for place, prompt in zip(places, step.batch.prompts, strict=True):
                tokens = tokens_read(self.model, prompt, stack)
                first_new = len(tokens)
                positions = positions_of(self.plan.where, prompt, stack)
                if stack != "encoder":
                    tokens = tokens + written[place].tokens[:-1]  # the last one is not fed back
                    positions = positions + list(range(first_new, len(tokens)))
                found.add(place, positions, tokens, first_new)
                picks[stack].append(positions)
        values = {}
        for name, stack in self.plan.stacks.items():
            recorded = [self.recorder.take(name, place, len(written[place].tokens)) for place in places]
            chosen = [x[positions] for x, positions in zip(recorded, picks[stack], strict=True)]
            values[name] = torch.cat(chosen).to(self.plan.dtype)
        return BatchRows(rows, values)


def _place(step: Step, row: int) -> int:
    return row if step.index is None else step.index[row]


def _check_finite(batch: BatchRows, plan: Plan, step: Step) -> None:
    for name, values in batch.values.items():
        if torch.isfinite(values.sum()) or bool(torch.isfinite(values).all()):  # the sum first: it is one pass
            continue
        rows = batch.rows[plan.stacks[name]]
        bad = int((~torch.isfinite(values.flatten(1)).all(1)).nonzero()[0])
        prompts = {_place(step, row): prompt for row, prompt in enumerate(step.batch.prompts)}
        raise MechsteerError(
            f"The activations at {name!r} are NaN or infinite (first in prompt {rows.prompt[bad]}, "
            f"{prompts[rows.prompt[bad]]!r}, at position {rows.position[bad]}). Check the weights, the dtype "
            f"({str(plan.dtype).removeprefix('torch.')}) and the intervention's strength."
        )
