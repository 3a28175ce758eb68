"""Inspect's model interface, served by :func:`mechsteer.generate`.

Messages become a prompt as :func:`mechsteer.prompt` makes them, by the tokenizer's chat template; GUIDE's tags in a
message mark what to steer and are taken out. Without a temperature decoding is greedy. With one, a seed decides the
draws; without a seed, a prompt that is asked several times (Inspect's epochs) is drawn anew each time, by its count.
Tools, images and the like are refused: these models have none.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, ModelUsage  # type: ignore[import-not-found]

from mechsteer.decoding import Greedy, Sample, Strategy, generate
from mechsteer.decoding.stops import completed, naming_specials
from mechsteer.errors import MechsteerError, unknown
from mechsteer.models import check_model, load, loaded_info, model_info
from mechsteer.prompts import Prompt
from mechsteer.prompts import prompt as make_prompt
from mechsteer.steering import Intervention, describe_edits

MAX_TOKENS = 256
"""The most new tokens where a task does not say."""

LOADING = ("device", "dtype", "revision", "fold")
REFUSED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "num_choices",
    "logprobs",
    "response_schema",
)
"""Settings of a task that would change the answer and that there are not."""

ALONE = ("best_of", "num_choices")
"""Those of which 1 changes nothing."""


class SteeredAPI(ModelAPI):
    """A loaded model as Inspect sees it.

    Args:
        model_name: A name for :func:`mechsteer.load`.
        base_url: Not used.
        api_key: Not used.
        config: Inspect's settings.
        model_args: ``steer``, an intervention or a file that :meth:`mechsteer.Intervention.save` wrote; ``device``,
            ``dtype``, ``revision`` and ``fold`` of :func:`mechsteer.load`; ``loaded``, a loaded model in its place.

    Raises:
        MechsteerError: for another argument, files that cannot be read, or an intervention that does not fit.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # Inspect's own signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        for name in model_args:
            if name not in ("steer", "loaded", *LOADING):
                raise unknown("argument of the model mechsteer:", name, ("steer", "loaded", *LOADING))
        steer = model_args.get("steer")
        self.steer = steer if isinstance(steer, Intervention | None) else Intervention.load(str(steer))
        options = {name: model_args[name] for name in LOADING if name in model_args}
        self.model = model_args["loaded"] if "loaded" in model_args else load(model_name, **options)
        check_model(self.model)
        if self.steer is not None:
            self.steer.check(self.model)
        self._one_at_a_time = threading.Lock()  # of threads: each evaluation has an event loop of its own
        self._asked: Counter[tuple[int, ...]] = Counter()

    async def generate(self, input: Any, tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        """The answer to some messages.

        Raises:
            MechsteerError: for tools, messages that are not text alone, or a setting that would change the answer and
                that there is not.
        """
        if tools:
            raise MechsteerError("The models of mechsteer have no tools; use a task without them.")
        wrong = [
            name for name in REFUSED if (value := getattr(config, name, None)) and (name not in ALONE or value != 1)
        ]
        if wrong:
            raise MechsteerError(f"{wrong[0]}={getattr(config, wrong[0])!r} is no setting of mechsteer's generation.")
        if config.temperature is None and (config.top_k or (config.top_p or 1.0) != 1.0):
            raise MechsteerError("top_p and top_k are for sampling; without a temperature decoding here is greedy.")
        return await asyncio.to_thread(self._answer, [_message(one) for one in input], config)

    def _answer(self, messages: Sequence[dict[str, str]], config: GenerateConfig) -> ModelOutput:
        with self._one_at_a_time:
            return self._answered(messages, config)

    def _answered(self, messages: Sequence[dict[str, str]], config: GenerateConfig) -> ModelOutput:
        made, most = self._prompt(messages), config.max_tokens or MAX_TOKENS
        stop, strategy = list(config.stop_seqs or ()), self._strategy(made, config)
        out = generate(self.model, made, steer=self.steer, strategy=strategy, max_new_tokens=most, stop=stop)
        ids, tokenizer = out.tokens[0, : out.lengths[0]].tolist(), self.model.tokenizer
        ended = len(ids) < most or ids[-1] in loaded_info(self.model).eos_ids
        ended = ended or (bool(stop) and completed(tokenizer, ids, stop, naming_specials(tokenizer, stop)))
        answer = ModelOutput.from_content(self.model_name, out.texts[0], "stop" if ended else "max_tokens")
        answer.usage = ModelUsage(
            input_tokens=len(made), output_tokens=out.lengths[0], total_tokens=len(made) + out.lengths[0]
        )
        edits = [] if self.steer is None else describe_edits(self.steer)
        answer.metadata = {"intervention": edits, "model_fingerprint": model_info(self.model).fingerprint}
        return answer

    def _prompt(self, messages: Sequence[dict[str, str]]) -> Prompt:
        """By the chat template; where there is none, the texts with empty lines between them."""
        if self.model.tokenizer.chat_template:
            return make_prompt(self.model, list(messages))
        return make_prompt(self.model, "\n\n".join(message["content"] for message in messages))

    def _strategy(self, made: Prompt, config: GenerateConfig) -> Strategy:
        if not config.temperature:
            return Greedy()
        seed = config.seed
        if seed is None:
            asked = tuple(made.tokens.tolist())
            seed = self._asked[asked]
            self._asked[asked] += 1
        return Sample(config.temperature, config.top_k or 0, 1.0 if config.top_p is None else config.top_p, seed)


def _message(message: Any) -> dict[str, str]:
    """A message as a template takes it.

    Raises:
        MechsteerError: for what is no text, of which these models would see nothing.
    """
    parts = [] if isinstance(message.content, str) else message.content
    other = [part.type for part in parts if part.type not in ("text", "reasoning")]
    other += ["tool call"] * bool(getattr(message, "tool_calls", None))
    if other:
        raise MechsteerError(f"The {message.role}'s message has a part that is no text, and is refused: {other[0]}.")
    return {"role": message.role, "content": message.text}
