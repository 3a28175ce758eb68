"""A steered model for lm-eval: any of its tasks under any intervention and decoding strategy.

    lm = mechsteer.harness.SteeredLM(model, steer=ms.attention_bias("instruction", 2.0))
    lm_eval.simple_evaluate(model=lm, tasks=["ifeval"])

or from lm-eval's own command line; it has no place where a package could make a model known, so that it is started as
``python -m mechsteer.harness``, which does that first, in the place of ``lm_eval``::

    python -m mechsteer.harness --model mechsteer --model_args pretrained=NAME,steer=steer.safetensors --tasks ifeval

lm-eval (https://github.com/EleutherAI/lm-evaluation-harness) gives contexts as text, its chat template and system text
applied where it is told to. They become prompts as :func:`mechsteer.prompt` makes them, so that a task's template can
mark what to steer with GUIDE's tags, e.g. ``<!!-> Answer in capitals. <-!!>``; the tags are taken out. Where the
template is not one's own, ``instruction=`` says where the instruction is: a field of the document or a function of it.
Tasks of one's own are lm-eval tasks by :func:`mechsteer.harness.own.lm_eval_task`.

Unsteered numbers equal those of lm-eval's own Hugging Face model, except that special tokens are those that the
tokenizer adds: a start token, which there is the option ``add_bos_token``, and the ``</s>`` after T5's input, which
there is left out. Install with ``pip install 'mechsteer[eval]'``.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from mechsteer.decoding import Greedy, Sample, Strategy, generate
from mechsteer.decoding.loop import MAX_BATCH_TOKENS
from mechsteer.decoding.requested import check_options, new_tokens, requested_strategy, stop_texts
from mechsteer.decoding.score import score_ids
from mechsteer.decoding.strategies import as_strategy
from mechsteer.errors import MechsteerError, shown, unknown
from mechsteer.files import digest
from mechsteer.harness.arguments import loaded, rows_of
from mechsteer.harness.marked import Instruction, marked
from mechsteer.identity import cell_key
from mechsteer.models import check_model, context_of, is_encoder_decoder, loaded_info, model_info, provenance
from mechsteer.prompts import Prompt, token_names
from mechsteer.prompts import prompt as make_prompt
from mechsteer.prompts.rendering import apply_template
from mechsteer.steering import Intervention, as_intervention, describe_edits

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
except ImportError as error:
    raise MechsteerError(f"The bridge to lm-eval needs its package ({error}): pip install 'mechsteer[eval]'.") from None

LOG = logging.getLogger("mechsteer")


@register_model("mechsteer")
class SteeredLM(LM):
    """A loaded model as lm-eval sees it.

    Args:
        model: A loaded model, of either type.
        steer: An intervention; acts on every request.
        strategy: How to generate; default: as each task asks (greedy, or sampling). Log-likelihoods are those of the
            model under ``steer``, whatever the strategy: no strategy chooses there.
        batch_size: Requests computed together, or ``"auto"``: up to ``max_batch_size``, fewer where they are long. Does
            not change the results.
        seed: For tasks that sample.
        progress: Show bars.
        instruction: The instruction of a request: the name of its document's field, or a function of the document that
            gives the text (or texts, or None). It is found in the context, where it stands last, and is the span
            ``instruction``. Default: only what a template has in tags.
        max_batch_size: For ``"auto"``; default: 64.

    Raises:
        MechsteerError: for what is no loaded model, strategy or instruction of these kinds, an intervention that does
            not fit the model, or another ``batch_size``.
    """

    def __init__(
        self,
        model: Any,
        *,
        steer: Intervention | None = None,
        strategy: Strategy | None = None,
        batch_size: int | str = 16,
        seed: int = 0,
        progress: bool = True,
        instruction: Instruction | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        if strategy is not None:
            as_strategy(strategy)
        if not (instruction is None or isinstance(instruction, str) or callable(instruction)):
            raise MechsteerError(
                f"instruction= is a field of the documents or a function of one, got {shown(instruction)}."
            )
        self.model = model
        self.steer = as_intervention(steer)
        self.steer.check(model)
        self.strategy = strategy
        self.batch_size, self._auto = rows_of(batch_size, max_batch_size)
        self.instruction = instruction
        self.seed = seed
        self.progress = progress
        self._template: str | None = None
        self._cut = 0

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "SteeredLM":
        """Load what ``--model_args`` say; see :func:`mechsteer.harness.arguments.loaded`.

        What they say wins over ``additional_config``, in which lm-eval's command line puts defaults of its own.
        """
        more = {name: value for name, value in (additional_config or {}).items() if value is not None}
        asked = more.get("device") == "cuda:0" and "device" not in arg_dict
        if asked and not torch.cuda.is_available():  # its default, also where there is none
            del more["device"]
            LOG.warning("There is no CUDA device here: the model runs on the CPU, not on lm-eval's cuda:0.")
        return cls(**loaded(more | arg_dict))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "SteeredLM":
        """The same from a text, ``name=value,name=value``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of templated requests (``cache_requests``): the model's name, a hash of its template."""
        templates = self.model.tokenizer.chat_template or ""
        template = digest(templates if self._template is None else [templates, self._template])
        return f"{loaded_info(self.model).name.replace('/', '__')}-{template}"

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's result files say of the model, the intervention and the decoding strategy."""
        return {
            **provenance(self.model),
            "model_digest": model_info(self.model).digest,
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "intervention": describe_edits(self.steer),
            "strategy": "as each task asks" if self.strategy is None else repr(self.strategy),
            "seed": self.seed,
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Give the answers of this model, intervention and strategy a table of their own in lm-eval's request cache.

        lm-eval (``use_cache``) finds an answer by the request alone, so that one file would give the answers of a
        steered model to an unsteered one. The tables' names hold :func:`mechsteer.cell_key`.

        Raises:
            MechsteerError: for an edit with a function of one's own that does not say which it is.
        """
        super().set_cache_hook(cache_hook)
        answers = cache_hook.dbdict
        if answers is not None:
            asked = {"seed": self.seed, "as each task asks": self.strategy is None, "instruction": self.instruction}
            key = cell_key(self.model, None, self.steer, self.strategy, asked)
            answers.tablename = f"mechsteer-{key}"
            answers.conn.execute(f'CREATE TABLE IF NOT EXISTS "{answers.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
            answers.conn.commit()

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template that ``apply_chat_template`` uses from now on; of several, the one of that name.

        Raises:
            MechsteerError: for a name that none of several has, or no name where none of them is the usual one.
        """
        templates = self.model.tokenizer.chat_template
        if not chat_template or not templates:
            return ""
        self._template = None
        if isinstance(templates, dict):
            name = chat_template if isinstance(chat_template, str) else "default"
            if name not in templates:
                raise unknown("chat template of this tokenizer:", name, templates)
            self._template = name
        elif isinstance(chat_template, str):
            LOG.warning("This tokenizer has one chat template, which is used; it has none named %r.", chat_template)
        return self.model.tokenizer.get_chat_template(self._template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as text, special tokens included; without system messages where the template refuses them.

        Raises:
            MechsteerError: if the tokenizer has no chat template.

        Warns:
            UserWarning: if system messages are left out, as lm-eval's own model does.
        """
        if not self.model.tokenizer.chat_template:
            raise MechsteerError("This tokenizer has no chat template; leave apply_chat_template off.")
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        if self._template is not None:
            options["chat_template"] = self._template
        try:
            return apply_template(self.model.tokenizer, chat_history, **options)
        except MechsteerError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise MechsteerError(f"The chat template refuses these messages: {error}.") from None
            warnings.warn(f"This chat template has no system messages; theirs is left out ({error}).", stacklevel=2)
            return apply_template(self.model.tokenizer, rest, **options)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each ``(context, continuation)``, its log-probability in nats, and whether greedy decoding says it.

        Warns:
            UserWarning: for a ``strategy``, which has no part in it.
        """
        self._say_unused()
        pairs = [self._pair(*request.args, doc=request.doc) for request in requests]
        self._say_cut()
        return self._scores("loglikelihood", pairs, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in pieces as long as the context where it is longer.

        Raises:
            MechsteerError: for encoder-decoders, which have no probability of a text alone.

        Warns:
            UserWarning: for a ``strategy``, which has no part in it.
        """
        if is_encoder_decoder(self.model):
            raise MechsteerError("A text alone has no probability under an encoder-decoder.")
        self._say_unused()
        sums = []
        for request in requests:
            ids = self.model.tokenizer(request.args[0], add_special_tokens=False)["input_ids"]
            windows = get_rolling_token_windows(
                token_list=ids, prefix_token=self._prefix(), max_seq_len=self.model.cfg.n_ctx, context_len=1
            )
            pairs = [(self._of_ids(a), b) for a, b in map(make_disjoint_window, windows)]
            sums.append(sum(score for score, _ in self._scores("rolling", pairs, disable_tqdm=True)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of the request's ``until`` texts.

        Raises:
            MechsteerError: before anything is generated, for a generation option or value that
                :func:`mechsteer.generate` does not have, with its name.
        """
        settings = loaded_info(self.model).generation_config
        for request in requests:
            check_options(request.args[1], settings)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(place)
        texts = [""] * len(requests)
        for places in tqdm(groups.values(), desc="generating", disable=disable_tqdm or not self.progress):
            options = requests[places[0]].args[1]
            length = new_tokens(options)
            asked = [requests[place] for place in places]
            prompts = [self._prompt(one.args[0], room=length, doc=one.doc) for one in asked]
            self._say_cut()
            out = generate(
                self.model,
                prompts,
                steer=self.steer,
                strategy=self.strategy or requested_strategy(options, self.seed),
                max_new_tokens=length,
                stop=stop_texts(options),
                batch_size=self.batch_size,
            )
            for place, text in zip(places, out.texts, strict=True):
                texts[place] = text
        return texts

    def _say_unused(self) -> None:
        """Warn where a strategy that is not the model's own distribution would be taken for part of a score."""
        if not isinstance(self.strategy, Greedy | Sample | None):
            warnings.warn(
                f"Log-likelihoods are those of the model under steer=; strategy={self.strategy!r} has no part in them.",
                stacklevel=3,
            )

    def _say_cut(self) -> None:
        """Say how many contexts have been cut since the last time: what they lost may be what the task is about."""
        if self._cut:
            LOG.warning(
                "Contexts that with what follows them are longer than the %d tokens of this model, and lose their "
                "beginning: %d.",
                self.model.cfg.n_ctx,
                self._cut,
            )
        self._cut = 0

    def _scores(
        self, name: str, pairs: Sequence[tuple[Prompt, list[int]]], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        """Equal contexts are computed once for all of their continuations."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        contexts: dict[str, list[int]] = {}
        for place, (made, _) in enumerate(pairs):
            contexts.setdefault(repr((made.tokens.tolist(), made.spans)), []).append(place)
        by_count: dict[int, list[list[int]]] = {}
        for places in contexts.values():
            by_count.setdefault(len(places), []).append(places)
        with tqdm(total=len(pairs), desc=name, disable=disable_tqdm or not self.progress) as bar:
            for rows in by_count.values():
                prompts = [pairs[places[0]][0] for places in rows]
                choices = [[pairs[place][1] for place in places] for places in rows]
                size = self._together(prompts, choices)
                scores, greedy = score_ids(self.model, prompts, choices, steer=self.steer, batch_size=size)
                for places, row, flags in zip(rows, scores.tolist(), greedy.tolist(), strict=True):
                    for place, score, flag in zip(places, row, flags, strict=True):
                        found[place] = (score, flag)
                    bar.update(len(places))
        return found

    def _together(self, prompts: Sequence[Prompt], choices: Sequence[Sequence[Sequence[int]]]) -> int:
        """How many prompts are scored together."""
        if not self._auto:
            return self.batch_size
        longest = max(map(len, prompts)) + max(len(ids) for row in choices for ids in row)
        return max(1, min(self.batch_size, MAX_BATCH_TOKENS // longest))

    def _pair(self, context: str, continuation: str, doc: Mapping[str, Any] | None = None) -> tuple[Prompt, list[int]]:
        """The prompt of a context and the tokens of its continuation, split where both together are split.

        Raises:
            MechsteerError: for a continuation without tokens.
        """
        made, ids = self._split(context, continuation, doc or {})
        if not ids:
            raise MechsteerError(f"The continuation {continuation!r} of the context {context[-40:]!r} has no tokens.")
        return made, ids

    def _split(self, context: str, continuation: str, doc: Mapping[str, Any]) -> tuple[Prompt, list[int]]:
        if is_encoder_decoder(self.model):
            return self._prompt(context, doc=doc), self._ids(continuation)
        stripped = context.rstrip()
        continuation, context = context[len(stripped) :] + continuation, stripped
        if not context:
            ids = self._ids(continuation)
            start = [] if ids[:1] == [self._prefix()] else [self._prefix()]
            ids = [*start, *ids]
            return self._of_ids(ids[:1]), ids[1:]
        made = self._whole(context, doc)
        # Without special tokens: a tokenizer may also put one at a text's end, which is no part of a continuation.
        rest = self._ids(made.text + continuation)[len(self._ids(made.text)) :]
        return self._cropped(made, max(0, len(rest) - 1)), rest  # the last token is predicted and not read

    def _ids(self, text: str) -> list[int]:
        return self.model.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _prompt(self, context: str, room: int = 0, doc: Mapping[str, Any] | None = None) -> Prompt:
        """A context as a prompt; one that does not fit, with ``room`` after it, loses its beginning, which is said."""
        return self._cropped(self._whole(context, doc), room)

    def _whole(self, context: str, doc: Mapping[str, Any] | None) -> Prompt:
        if self.instruction is not None:
            context = marked(context, doc or {}, self.instruction)
        if context.strip():
            return make_prompt(self.model, context, chat=False)
        # White space is no prompt of ours, but lm-eval has such contexts.
        return self._of_ids((self.model.tokenizer(context)["input_ids"] if context else []) or [self._prefix()])

    def _cropped(self, made: Prompt, room: int) -> Prompt:
        if is_encoder_decoder(self.model):
            return made
        if room >= self.model.cfg.n_ctx:
            raise MechsteerError(
                f"{room} tokens after a context leave it no room: this model's context has {context_of(self.model)}. "
                "Ask for fewer, e.g. max_gen_toks in the task's generation_kwargs."
            )
        over = max(0, len(made) + room - self.model.cfg.n_ctx)
        self._cut += over > 0
        return _without_first(made, over)

    def _of_ids(self, ids: Iterable[int]) -> Prompt:
        tokens = torch.tensor(list(ids), dtype=torch.long)
        strings = tuple(token_names(self.model.tokenizer, tokens.tolist()))
        return Prompt("", tokens, {"task": [(0, len(tokens))]}, strings, is_encoder_decoder(self.model))

    def _prefix(self) -> int:
        """What stands before a text that has no context."""
        tokenizer = self.model.tokenizer
        found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if found is None:
            raise MechsteerError("A text without a context needs a token before it; this tokenizer has no BOS or EOS.")
        return found


def _without_first(made: Prompt, count: int) -> Prompt:
    """The prompt without its first tokens, its spans moved; a span that was in them is gone."""
    if count <= 0:
        return made
    spans = {
        name: [(max(a - count, 0), b - count) for a, b in ranges if b > count] for name, ranges in made.spans.items()
    }
    kept = {name: ranges for name, ranges in spans.items() if ranges}
    after = {"tokens": made.tokens[count:], "str_tokens": made.str_tokens[count:], "offsets": made.offsets[count:]}
    return replace(made, spans=kept, **after)
