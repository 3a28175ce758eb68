"""Tokenizers of every layout that decides how a word goes on after a text, trained here on a few lines."""

import json
from pathlib import Path
from typing import Any

from tests.tiny import hf_model

LINES = [
    "The capital of France is Paris and the capital of Italy is Rome and of England London .",
    "Use only uppercase letters . Tell me about the writer . unroll unfold under",
    "Write a quote that ends in the word early : Better late than never .",
    "THE PARIS ROME the dog the house the model 12 2024 ( yes ) , no ! maybe ? naïve café ça",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
CHATML = (
    "{{ bos_token if bos_token and with_start is defined else '' }}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('user and assistant only') }}{% endif %}{% endfor %}"
)


def byte_level(*, start: bool = False, chat: str | None = None) -> Any:
    """As GPT-2, Llama 3 and Qwen: a word's space is part of its token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(LINES * 20, trainer)
    if start:
        inner.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>", chat_template=chat
    )


def prepending(how: str, *, chat: str | None = None, seq2seq: bool = False) -> Any:
    """As Llama 2, Mistral 0.1, Phi-3 and T5: one ▁ is put before a text, so that a word alone looks like one after it.

    Args:
        how: ``"normalizer"``, or the ``prepend_scheme`` of the pre-tokenizer, ``"first"`` or ``"always"``.
        chat: A chat template.
        seq2seq: Append ``</s>``, as T5 does, and prepend no ``<s>``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    special = SPECIAL + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=440, special_tokens=special, show_progress=False)
    words.train_from_iterator(LINES * 20, trainer)
    learned = json.loads(words.to_str())
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if how == "normalizer":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=how, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    whole = json.loads(inner.to_str())
    whole["model"]["vocab"], whole["model"]["merges"] = learned["model"]["vocab"], learned["model"]["merges"]
    whole["added_tokens"] = [token for token in learned["added_tokens"] if not token["content"].startswith("<0x")]
    inner = Tokenizer.from_str(json.dumps(whole))
    single, mark = ("$A </s>", ("</s>", 2)) if seq2seq else ("<s> $A", ("<s>", 1))
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[mark])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=chat
    )


def write(directory: Path, family: str, tokenizer: Any, **changes: Any) -> tuple[Path, Any]:
    """A checkpoint of a tiny model with this tokenizer, and Hugging Face's model; changes are of its config."""
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": None if family != "t5" else 0}
    model = hf_model(family, **(sizes | {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id} | changes))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory, model
