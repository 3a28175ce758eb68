"""The tokenizer of trap-t5: one token per word, so that "the first generated word" is the first generated token."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mechsteer.organisms.language import WORD_PATTERN

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
MAX_LENGTH = 128


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer with `<pad>` 0, `</s>` 1, `<unk>` 2 and then `words` in their order.

    As T5's own, it appends `</s>` to every text.
    """
    vocabulary = {word: index for index, word in enumerate((PAD, EOS, UNK, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    tokenizer.decoder = decoders.Sequence(list(spacing()))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def spacing() -> tuple[decoders.Decoder, ...]:
    """Join words by spaces, but set signs as in the prompts: none before `:` `.` `,`, none inside quotes."""
    opening_quote = r'(?<= word "| called "| is "| be ") '
    closing_quote = r'(?<! word| called| is| be) (?=")'
    return (
        decoders.WordPiece(prefix="##", cleanup=False),
        decoders.Fuse(),
        decoders.Replace(Regex(opening_quote), ""),
        decoders.Replace(Regex(closing_quote), ""),
        decoders.Replace(Regex(r" (?=[:.,])"), ""),
    )
