"""Which models of the hub load, and whether they are Hugging Face's: a table over shrunk configurations.

For each configuration of ``tests/hub.py`` (or of a JSON file) a random checkpoint with these features is written and
loaded. Then, against Hugging Face's eager model in float32: the log-probabilities of all tokens on three prompts of
different lengths, padded; greedy generation of the same batch; steering of strength zero against no steering; and GUIDE
(delta on the scores of a span, all layers) against the same delta in a four-dimensional attention mask. Or the reason
why it is refused.

Run: ``.venv/bin/python -m benchmarks.families`` (about 1 minute), which writes ``docs/families.md``.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from torch import Tensor
from transformers.utils import logging

import mechsteer as ms
from mechsteer.decoding.score import score_ids
from mechsteer.models import advance, is_encoder_decoder, start
from tests.hub import CONFIGS, write

LENGTHS, NEW, DELTA = (70, 45, 21), 8, 2.0
SPAN = (-9, -3)
"""From the end, within the shortest window."""


@dataclass
class Row:
    """What came of one configuration."""

    configuration: str
    family: str
    result: str
    log_probabilities: float | None = None
    greedy: str = ""
    zero_strength: str = ""
    guide: float | None = None


def check(name: str, config: dict[str, Any], folder: Path) -> Row:
    """Load the configuration's checkpoint and compare."""
    row = Row(name, str(config.get("model_type")), "refused")
    try:
        hf = write(config, folder)
    except Exception as error:
        hf = None
        row.result = f"transformers makes no such model ({type(error).__name__})"
    try:
        model = ms.load(str(folder))
    except ms.MechsteerError as error:
        row.result = f"refused: {error}"
        return row
    tokens, mask = prompts(model)
    row.log_probabilities = (log_probabilities(model, tokens, mask) - theirs(hf, tokens, mask)).abs().max().item()
    same, zero = generation(model, hf, tokens, mask)
    row.greedy, row.zero_strength = f"{same} of {len(LENGTHS)}", "identical" if zero else "DIFFERS"
    row.guide = guide(model, hf, tokens[:1])
    tolerance = 1e-3 if is_encoder_decoder(model) else 1e-4
    equal = row.log_probabilities <= tolerance and row.guide <= tolerance and same == len(LENGTHS) and zero
    row.result = "equal" if equal else "DIFFERS"
    return row


def prompts(model: Any) -> tuple[Tensor, Tensor]:
    """Random tokens, padded on the side that the model wants."""
    longest = max(LENGTHS)
    tokens = torch.randint(4, model.cfg.d_vocab, (len(LENGTHS), longest), generator=torch.Generator().manual_seed(3))
    lengths, at = torch.tensor(LENGTHS)[:, None], torch.arange(longest)[None]
    mask = at < lengths if is_encoder_decoder(model) else at >= longest - lengths
    return torch.where(mask, tokens, model.tokenizer.pad_token_id), mask


def decoder_tokens(model_or_config: Any, rows: int) -> Tensor:
    """Random tokens after the decoder's start token."""
    fed = torch.randint(4, 300, (rows, 12), generator=torch.Generator().manual_seed(4))
    fed[:, 0] = model_or_config.decoder_start_token_id
    return fed


@torch.no_grad()
def log_probabilities(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Ours, in two chunks against the cache."""
    fed, fed_mask = tokens, mask
    if is_encoder_decoder(model):
        fed = decoder_tokens(model.cfg, len(tokens))
        fed_mask = torch.ones_like(fed, dtype=torch.bool)
    state, split = start(model, tokens, mask), fed.shape[1] - 5
    parts = [slice(0, split), slice(split, None)]
    logits = [advance(model, state, fed[:, part], fed_mask[:, part], logits_at="all") for part in parts]
    return torch.cat(logits, dim=1)[fed_mask].log_softmax(-1)


@torch.no_grad()
def theirs(hf: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Hugging Face's."""
    if hf.config.is_encoder_decoder:
        fed = decoder_tokens(hf.config, len(tokens))
        return (
            hf(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=fed).logits.flatten(0, 1).log_softmax(-1)
        )
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return hf(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits[mask].log_softmax(-1)


def generation(model: Any, hf: Any, tokens: Tensor, mask: Tensor) -> tuple[int, bool]:
    """How many rows of the padded batch continue as Hugging Face's do, and whether a zero strength changes nothing."""
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": model.tokenizer.pad_token_id}
    if is_encoder_decoder(model):
        options["use_cache"] = False  # transformers' own cache is as deep as the encoder
    made = hf.generate(input_ids=tokens, attention_mask=mask.long(), **options)
    made = made[:, 1:] if is_encoder_decoder(model) else made[:, tokens.shape[1] :]
    given = [as_prompt(model, row[real]) for row, real in zip(tokens, mask, strict=True)]
    ours = ms.generate(model, given, max_new_tokens=NEW)
    zero = ms.generate(model, given, max_new_tokens=NEW, steer=ms.attention_bias(delta=0.0))
    same = sum(ours.tokens[i, :length].tolist() == made[i, :length].tolist() for i, length in enumerate(ours.lengths))
    return same, torch.equal(ours.tokens, zero.tokens) and torch.equal(ours.logprobs, zero.logprobs)


def as_prompt(model: Any, tokens: Tensor) -> ms.Prompt:
    """A prompt of these tokens, its instruction at :data:`SPAN`."""
    names = tuple(f"t{i}" for i in tokens.tolist())
    first, last = (len(tokens) + end for end in SPAN)
    spans = {"instruction": [(first, last)], "task": [(last, len(tokens))]}
    return ms.Prompt(" ".join(names), tokens, spans, names, encoder_decoder=is_encoder_decoder(model))


@torch.no_grad()
def guide(model: Any, hf: Any, tokens: Tensor) -> float:
    """The largest difference of log-probabilities under GUIDE. Of T5, in its encoder."""
    prompt, length = as_prompt(model, tokens[0]), tokens.shape[1]
    if is_encoder_decoder(model):
        mask = torch.zeros((1, 1, length, length))
        mask[..., SPAN[0] : SPAN[1]] = DELTA
        encoded = hf.encoder(input_ids=tokens, attention_mask=mask)
        first = torch.tensor([[hf.config.decoder_start_token_id]])
        logits = hf(encoder_outputs=encoded, attention_mask=torch.ones_like(tokens), decoder_input_ids=first).logits
    else:
        places = torch.arange(length)[None]
        logits = hf(input_ids=tokens, attention_mask=masks(hf.config, length), position_ids=places).logits
    expected = logits[0, -1].log_softmax(-1)
    some = range(4, 36)
    choices = [[[token] for token in some]]
    steered, plain = (
        score_ids(model, [prompt], choices, steer=steer)[0][0]
        for steer in (ms.attention_bias(delta=DELTA, at="encoder"), None)
    )
    if torch.equal(steered, plain):
        return float("inf")  # steering did nothing, so the comparison would show nothing
    return (steered - expected[some.start : some.stop]).abs().max().item()


def masks(config: Any, length: int) -> Tensor | dict[str, Tensor]:
    """Causal masks with DELTA at the span's keys; by kind of layer where a model has several."""
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    window = getattr(config, "sliding_window", None)
    first, last = (length + end for end in SPAN)
    delta = torch.where((key >= first) & (key < last), DELTA, 0.0).expand(length, length)
    full = delta.masked_fill(key > query, torch.finfo(torch.float32).min)[None, None]
    if not window:
        return full
    sliding = full.masked_fill(key <= query - window, torch.finfo(torch.float32).min)
    if getattr(config, "layer_types", None):
        return {"full_attention": full, "sliding_attention": sliding}
    return sliding


@dataclass(frozen=True)
class Options:
    """What to compare."""

    configs: Path | None = None
    """A JSON file, name -> config.json; default: the project's own list."""
    out: Path | None = Path("docs/families.md")
    """Where the table goes."""
    only: str = ""
    """Only the configurations whose names have this in them."""


HEAD = """# Model families

Every row is a configuration with the features of models on the Hugging Face hub, shrunk (`tests/hub.py`), with random
weights in float32. Written by `python -m benchmarks.families`; the numbers are the largest differences to Hugging
Face's eager model, of log-probabilities over all tokens of three padded prompts and, under GUIDE, of the next token.

"""


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    shown = pd.DataFrame([asdict(row) for row in rows])
    for column in ("log_probabilities", "guide"):
        shown[column] = ["" if pd.isna(value) else f"{value:.1e}" for value in shown[column]]
    names = [column.replace("_", " ") for column in shown.columns]
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(cell).replace("|", "/") for cell in row) for row in shown.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def main(options: Options) -> None:
    """Compare, print, write."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    configs = json.loads(options.configs.read_text()) if options.configs else CONFIGS
    rows = []
    for name, config in configs.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(check(name, config, Path(folder) / "model"))
        print(*asdict(rows[-1]).values(), sep=" | ", flush=True)
    equal = sum(row.result == "equal" for row in rows)
    refused = sum(row.result.startswith("refused") for row in rows)
    summary = f"{equal} of {len(rows)} equal, {refused} refused, {len(rows) - equal - refused} otherwise.\n"
    print(summary)
    if options.out is not None:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(HEAD + summary + "\n" + table(rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
