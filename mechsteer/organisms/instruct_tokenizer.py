"""The tokenizer of instruct-llama: byte-level BPE, trained on what the model reads, with BOS and a chat template."""

from functools import cache
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mechsteer.organisms.instruct_lexicon import KEYWORDS
from mechsteer.organisms.instruct_tasks import Sampler
from mechsteer.organisms.instruct_world import TOPICS, facts

PAD, END, BEGIN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|begin|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, BEGIN, USER, ASSISTANT)
PAD_ID, END_ID, BEGIN_ID = range(3)
MAX_LENGTH = 1024
TEXT_SEED = 3
TEXT_MIX = {"document": 0.6, "question": 0.1, "instructed": 0.3}
N_TEXTS = 20_000
N_REPEATS = 30

CHAT_TEMPLATE = (
    f"{BEGIN}{{% for message in messages %}}"
    f"{{% if message['role'] == 'user' %}}{USER}{{{{ message['content'] }}}}"
    f"{{% elif message['role'] == 'assistant' %}}{ASSISTANT}{{{{ message['content'] }}}}{END}"
    "{% else %}{{ raise_exception('there are user and assistant messages only') }}{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def build_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `size` entries, `<|pad|>` 0, `<|end|>` 1 and `<|begin|>` 2 first.

    It puts `<|begin|>` before every text; the chat template writes it itself.
    """
    tokenizer = Tokenizer.from_str(_trained(size))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=BEGIN,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def frame(prompt: str) -> str:
    """Put a prompt into the chat template, without the BOS that the tokenizer adds by itself."""
    return f"{USER}{prompt}{ASSISTANT}"


@cache
def _trained(size: int) -> str:
    """Train, and return the tokenizer's JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, BEGIN_ID)])
    return tokenizer.to_str()


@cache
def _texts() -> tuple[str, ...]:
    """Return what the tokenizer is trained on: examples, and every fact and keyword in small and capital letters."""
    examples = islice(Sampler(TEXT_MIX, TEXT_SEED), N_TEXTS)
    lines = [text for example in examples for text in example if text]
    sentences = [text for topic in TOPICS for fact in facts(topic) for text in (*fact.english, fact.french)]
    words = [f' {word} "{word}"' for word in KEYWORDS]
    return (*lines, *[form for text in (*sentences, *words) for form in (text, text.upper())] * N_REPEATS)
