"""Tiny random checkpoints of every supported family, made here: no network, weights large enough that errors show."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WORDS = 'the a cat dog sat on mat in house answer capitals task quote word write ends red blue , . : " one two'.split()
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
CHAT = (
    "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<s> answer :{% endif %}"
)
VOCAB = 96

DECODERS = ["gpt2", "llama", "llama-gqa", "llama3-rope", "llama-bias", "mistral", "phi3", "qwen2", "qwen3", "gemma2"]
ENCODER_DECODERS = ["t5", "t5-gated", "t5-uneven"]
FAMILIES = DECODERS + ENCODER_DECODERS
VARIANTS = ["gpt2-inner", "llama-tied", "llama-wide-heads", "mistral-full", "qwen2-full", "gemma2-uncapped"]
"""Configurations that differ from the families above in one respect; for the tests of loading alone."""

BYTE_LEVEL = ("qwen2", "qwen2-full")
"""Their tokenizer splits words: transformers reads every ``qwen2`` tokenizer as byte-level pieces, whatever it is."""


def byte_level_tokenizer() -> Any:
    """A byte-level BPE tokenizer without a start token, as Qwen has it: words become several pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(set("".join(WORDS))) + list("ĠĊABCDEFGHIJKLMNOPQRSTUVWXYZ'?!jxyz")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=sorted(set(letters)), show_progress=False
    )
    trained.train_from_iterator([" " + " ".join(WORDS)], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return Qwen2Tokenizer(model["vocab"], merges, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def tokenizer(*, seq2seq: bool, chat: bool = False) -> Any:
    """A word-level tokenizer with offsets; seq2seq appends </s>, the other prepends <s>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate([*SPECIAL, *WORDS])}
    vocab |= {f"w{i}": i for i in range(len(vocab), VOCAB)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w']+|[^\w\s]"), "removed", invert=True)
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    single, special = ("$A </s>", ("</s>", 1)) if seq2seq else ("<s> $A", ("<s>", 3))
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    if chat:
        made.chat_template = CHAT
    return made


def _config(family: str) -> Any:
    import transformers as t

    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    llama = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=False, **ids,
    )  # fmt: skip
    gqa = llama | {"num_key_value_heads": 2}
    t5 = dict(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=2, num_decoder_layers=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    made = {
        "gpt2": lambda: t.GPT2Config(vocab_size=VOCAB, n_embd=32, n_head=4, n_layer=3, n_positions=128, **ids),
        "gpt2-inner": lambda: t.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_head=4, n_layer=2, n_positions=64, n_inner=80, **ids
        ),
        "llama": lambda: t.LlamaConfig(**llama),
        "llama-tied": lambda: t.LlamaConfig(**(gqa | {"tie_word_embeddings": True})),
        "llama-wide-heads": lambda: t.LlamaConfig(**gqa, head_dim=16),
        "mistral-full": lambda: t.MistralConfig(**gqa, sliding_window=None),
        "qwen2-full": lambda: t.Qwen2Config(**gqa),
        "gemma2-uncapped": lambda: t.Gemma2Config(
            **gqa,
            head_dim=8,
            sliding_window=6,
            query_pre_attn_scalar=16,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
        ),
        "llama-gqa": lambda: t.LlamaConfig(**gqa),
        "llama3-rope": lambda: t.LlamaConfig(**gqa, rope_parameters=llama3),
        "llama-bias": lambda: t.LlamaConfig(**gqa, attention_bias=True),
        "mistral": lambda: t.MistralConfig(**gqa, sliding_window=6),
        "phi3": lambda: t.Phi3Config(**gqa, sliding_window=7),
        "qwen2": lambda: t.Qwen2Config(**gqa, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        "qwen3": lambda: t.Qwen3Config(**gqa, head_dim=16),
        "gemma2": lambda: t.Gemma2Config(
            **(gqa | {"tie_word_embeddings": True}), head_dim=8, sliding_window=6, query_pre_attn_scalar=8
        ),
        "granite": lambda: t.GraniteConfig(
            **gqa, residual_multiplier=0.4, logits_scaling=3.0, embedding_multiplier=2.0, attention_multiplier=0.3
        ),
        "t5": lambda: t.T5Config(**t5, feed_forward_proj="relu", tie_word_embeddings=True),
        "t5-gated": lambda: t.T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        "t5-uneven": lambda: t.T5Config(
            **(t5 | {"num_layers": 1, "num_decoder_layers": 3}),
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
        ),
    }
    return made[family]()


def hf_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random Hugging Face model whose next-token distributions are far from uniform; changes are of its config."""
    import transformers as t

    config = _config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    auto = t.AutoModelForSeq2SeqLM if config.is_encoder_decoder else t.AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        if getattr(config, "scale_decoder_outputs", False):  # undo the scale, or the distributions would be flat
            model.shared.weight.mul_(config.d_model**0.5)
    return model


def write_checkpoint(family: str, directory: Path, *, seed: int = 0, chat: bool = False) -> Path:
    """An ordinary checkpoint directory, as ``save_pretrained`` leaves it."""
    model = hf_model(family, seed)
    model.save_pretrained(directory)
    if family == "t5-gated":  # transformers 5 ties T5 when it makes one; FLAN-T5's files hold a head of their own
        weights = load_file(directory / "model.safetensors")
        generator = torch.Generator().manual_seed(seed + 1)
        weights["lm_head.weight"] = 0.5 * torch.randn(VOCAB, 32, generator=generator)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    made = byte_level_tokenizer() if family in BYTE_LEVEL else tokenizer(seq2seq=family in ENCODER_DECODERS, chat=chat)
    made.save_pretrained(directory)
    return directory
