"""A steered model for lm-eval: any of its tasks under any intervention and decoding strategy.

    lm = mechsteer.harness.SteeredLM(model, steer=ms.attention_bias("instruction", 2.0))
    lm_eval.simple_evaluate(model=lm, tasks=["ifeval"])

lm-eval (https://github.com/EleutherAI/lm-evaluation-harness) gives contexts as text. They become prompts as
:func:`mechsteer.prompt` makes them, so that a task's template can mark what to steer with GUIDE's tags, e.g.
``<!!-> Answer in capitals. <-!!>``; the tags are taken out. Unsteered numbers equal those of lm-eval's own Hugging Face
model, except that special tokens are those that the tokenizer adds: a start token, which there is the option
``add_bos_token``, and the ``</s>`` after T5's input, which there is left out. Install with
``pip install 'mechsteer[eval]'``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from mechsteer.decoding import Strategy, generate
from mechsteer.decoding.requested import check_options, new_tokens, requested_strategy, stop_texts
from mechsteer.decoding.score import score_ids
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import digest
from mechsteer.identity import cell_key
from mechsteer.models import context_of, is_encoder_decoder, model_info, provenance
from mechsteer.prompts import Prompt, token_names
from mechsteer.prompts import prompt as make_prompt
from mechsteer.steering import Intervention, as_intervention, describe_edits

try:
    from lm_eval.api.model import LM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise MechsteerError(f"The bridge to lm-eval needs its package ({error}): pip install 'mechsteer[eval]'.") from None


class SteeredLM(LM):
    """A loaded model as lm-eval sees it.

    Args:
        model: A loaded model, of either type.
        steer: An intervention; acts on every request.
        strategy: How to generate; default: as each task asks (greedy, or sampling).
        batch_size: Requests computed together; does not change the results.
        seed: For tasks that sample.
        progress: Show bars.
    """

    def __init__(
        self,
        model: Any,
        *,
        steer: Intervention | None = None,
        strategy: Strategy | None = None,
        batch_size: int = 16,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.steer = as_intervention(steer)
        self.steer.check(model)
        self.strategy = strategy
        self.batch_size = positive_int("batch_size", batch_size)
        self.seed = seed
        self.progress = progress

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of templated requests (``cache_requests``): the model's name, a hash of its template."""
        template = digest(self.model.tokenizer.chat_template or "")
        return f"{model_info(self.model).name.replace('/', '__')}-{template}"

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
            asked = {"seed": self.seed, "as each task asks": self.strategy is None}
            key = cell_key(self.model, None, self.steer, self.strategy, asked)
            answers.tablename = f"mechsteer-{key}"
            answers.conn.execute(f'CREATE TABLE IF NOT EXISTS "{answers.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
            answers.conn.commit()

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template that ``apply_chat_template`` uses."""
        return (self.model.tokenizer.chat_template or "") if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as text, special tokens included.

        Raises:
            MechsteerError: if the tokenizer has no chat template.
        """
        if not self.model.tokenizer.chat_template:
            raise MechsteerError("This tokenizer has no chat template; leave apply_chat_template off.")
        return self.model.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each ``(context, continuation)``, its log-probability in nats, and whether greedy decoding says it."""
        pairs = [self._pair(*request.args) for request in requests]
        return self._scores("loglikelihood", pairs, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in pieces as long as the context where it is longer.

        Raises:
            MechsteerError: for encoder-decoders, which have no probability of a text alone.
        """
        if is_encoder_decoder(self.model):
            raise MechsteerError("A text alone has no probability under an encoder-decoder.")
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
        settings = model_info(self.model).generation_config
        for request in requests:
            check_options(request.args[1], settings)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(place)
        texts = [""] * len(requests)
        for places in tqdm(groups.values(), desc="generating", disable=disable_tqdm or not self.progress):
            options = requests[places[0]].args[1]
            length = new_tokens(options)
            prompts = [self._prompt(requests[place].args[0], room=length) for place in places]
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
                scores, greedy = score_ids(self.model, prompts, choices, steer=self.steer, batch_size=self.batch_size)
                for places, row, flags in zip(rows, scores.tolist(), greedy.tolist(), strict=True):
                    for place, score, flag in zip(places, row, flags, strict=True):
                        found[place] = (score, flag)
                    bar.update(len(places))
        return found

    def _pair(self, context: str, continuation: str) -> tuple[Prompt, list[int]]:
        """The prompt of a context and the tokens of its continuation, split where both together are split.

        Raises:
            MechsteerError: for a continuation without tokens.
        """
        made, ids = self._split(context, continuation)
        if not ids:
            raise MechsteerError(f"The continuation {continuation!r} of the context {context[-40:]!r} has no tokens.")
        return made, ids

    def _split(self, context: str, continuation: str) -> tuple[Prompt, list[int]]:
        tokenizer = self.model.tokenizer
        if is_encoder_decoder(self.model):
            return self._prompt(context), tokenizer(continuation, add_special_tokens=False)["input_ids"]
        if not context:
            ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
            start = [] if ids[:1] == [self._prefix()] else [self._prefix()]
            ids = [*start, *ids]
            return self._of_ids(ids[:1]), ids[1:]
        stripped = context.rstrip()
        if stripped:
            continuation, context = context[len(stripped) :] + continuation, stripped
        made = self._prompt(context)
        whole = self._ids(made.text + continuation)
        return self._cropped(made, len(whole) - len(made)), whole[len(made) :]

    def _ids(self, text: str) -> list[int]:
        return self.model.tokenizer(text, add_special_tokens=not self._has_start(text))["input_ids"]

    def _has_start(self, text: str) -> bool:
        start = self.model.tokenizer.bos_token
        return bool(start) and text.startswith(start)

    def _prompt(self, context: str, room: int = 0) -> Prompt:
        """A context as a prompt; one that does not fit, with ``room`` after it, loses its beginning."""
        made = make_prompt(self.model, context, chat=False) if context else self._of_ids([self._prefix()])
        return self._cropped(made, room)

    def _cropped(self, made: Prompt, room: int) -> Prompt:
        if is_encoder_decoder(self.model):
            return made
        if room >= self.model.cfg.n_ctx:
            raise MechsteerError(
                f"{room} tokens after a context leave it no room: this model's context has {context_of(self.model)}. "
                "Ask for fewer, e.g. max_gen_toks in the task's generation_kwargs."
            )
        return _without_first(made, max(0, len(made) + room - self.model.cfg.n_ctx))

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
