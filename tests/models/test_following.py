"""A continuation's tokens are those that it has behind its prompt; scores and the lens are Hugging Face's for them."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.directions import sparse_examples
from mechsteer.models import continuation_ids, word_id, word_ids
from mechsteer.prompts.vocabulary import readable
from mechsteer.tasks.memotrap import MemoTrap, Trap
from tests.tokenizers import CHATML, LLAMA2, byte_level, prepending, write

TOKENIZERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "bytes": ("gpt2", byte_level),
    "bytes with a start and a chat": ("llama-gqa", lambda: byte_level(start=True, chat=CHATML)),
    "▁ by the normalizer": ("mistral", lambda: prepending("normalizer")),
    "▁ by the normalizer, chat": ("llama-gqa", lambda: prepending("normalizer", chat=LLAMA2)),
    "▁ first": ("phi3", lambda: prepending("first")),
    "▁ always": ("llama-gqa", lambda: prepending("always")),
    "T5": ("t5", lambda: prepending("always", seq2seq=True)),
}
CONTEXTS = [
    "The capital of France is",
    "Write a quote that ends in the word early : Better late than",
    "Use only uppercase letters .\n",
    "Tell me about the writer ,",
    "12",
    "naïve café",
    "The",
]
WORDS = ["Paris", "Rome", "never", "early", "unroll", "unfold", "THE", "12", "ça", "model", "zyx"]
CASES_EACH = 50


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """For each tokenizer a model with it, and Hugging Face's."""
    made = {}
    for name, (family, tokenizer) in TOKENIZERS.items():
        folder, hf = write(tmp_path_factory.mktemp("following"), family, tokenizer())
        made[name] = (ms.load(folder, check=False), hf)
    return made


def logprobs(hf: Any, before: list[int], after: list[int]) -> torch.Tensor:
    """Hugging Face's log-probabilities at each of the tokens ``after``."""
    with torch.no_grad():
        if hf.config.is_encoder_decoder:
            logits = hf(torch.tensor([before]), decoder_input_ids=torch.tensor([[0, *after[:-1]]])).logits
        else:
            logits = hf(torch.tensor([before + after[:-1]])).logits[:, len(before) - 1 :]
    return logits[0].log_softmax(-1)


def following(model: Any, prompt: ms.Prompt, text: str) -> list[int] | None:
    """What follows, worked out another way: the tokens of the whole as Hugging Face makes them; None if they differ."""
    tokenizer = model.tokenizer
    if prompt.encoder_decoder:
        return tokenizer(text_target=text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt.text + text, add_special_tokens=prompt.template is None)["input_ids"]
    known = prompt.tokens.tolist()
    return whole[len(known) :] if whole[: len(known)] == known else None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_scores_and_the_lens_are_hugging_faces_for_what_follows(name: str, models: dict[str, Any]) -> None:
    model, hf = models[name]
    draw = random.Random(name)
    cases = [(draw.choice(CONTEXTS), draw.choice(WORDS)) for _ in range(CASES_EACH)]
    cases = [(context, word) for context, word in cases if not (context == "12" and word == "12")]
    prompts = [ms.prompt(model, context) for context, _ in cases]
    texts = []
    for prompt, (_, word) in zip(prompts, cases, strict=True):
        header = prompt.template is not None  # ChatML's ends in a line break, behind Llama 2's stands a space
        bare = prompt.text.endswith("\n") if not header else "chat" in name and "bytes" in name
        texts.append(word if bare or prompt.encoder_decoder else f" {word}")
    found = ms.score(model, prompts, texts).tolist()
    lens = ms.logit_lens(model, prompts, [[word] for _, word in cases])
    lens = lens[lens["exit"] == lens["exit"].max()].set_index("prompt")
    wrong = []
    for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids = following(model, prompt, text)
        assert ids, (cases[place], text)
        table = logprobs(hf, prompt.tokens.tolist(), ids)
        wanted = sum(float(table[step, token]) for step, token in enumerate(ids))
        row = lens.loc[place]
        same = abs(found[place] - wanted) < 2e-3 and row["token_id"] == ids[0] and row["word_tokens"] == len(ids)
        same = same and abs(row["probability"] - float(table[0, ids[0]].exp())) < 1e-4
        wrong += [] if same and row["word"] == cases[place][1] else [(cases[place], found[place], wanted, dict(row))]
    assert not wrong
    assert lens["token"].nunique() > 5


def test_there_are_at_least_300_cases() -> None:
    assert len(TOKENIZERS) * CASES_EACH >= 300


@pytest.mark.parametrize("name", ["▁ by the normalizer", "▁ first", "▁ always"])
def test_a_word_is_not_the_space_that_the_tokenizer_prepends(name: str, models: dict[str, Any]) -> None:
    model, _ = models[name]
    prompt = ms.prompt(model, CONTEXTS[0])
    names = [model.tokenizer.convert_ids_to_tokens(word_id(model, word, prompt)) for word in ("Paris", "Rome", "never")]
    assert len(set(names)) == 3 and all(name.startswith("▁") and len(name) > 1 for name in names)
    alone = ms.logit_lens(model, prompt, ["Paris", "Rome"])
    assert set(alone["token"]) == {readable(name) for name in names[:2]}


def test_a_chat_header_decides_what_stands_before_an_answer(models: dict[str, Any]) -> None:
    model, _ = models["bytes with a start and a chat"]
    prompt = ms.prompt(model, "Tell me about the writer .")
    assert prompt.answer_lead == "" and word_ids(model, "THE", prompt) == continuation_ids(model, "THE", prompt)
    model, _ = models["▁ by the normalizer, chat"]
    prompt = ms.prompt(model, "Tell me about the writer .")
    assert prompt.answer_lead == " " and word_ids(model, "THE", prompt) == continuation_ids(model, " THE", prompt)
    plain = ms.prompt(model, "Tell me about the writer .", chat=False)
    assert plain.answer_lead is None and word_ids(model, "THE", plain) == continuation_ids(model, " THE", plain)


@pytest.mark.parametrize(
    ("template", "lead", "before"),
    [
        ("USER: {{ messages[0]['content'] }}\nASSISTANT:", None, " "),  # it writes no answers
        (
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}",
            None,
            "",
        ),  # no header
        ("USER: {{ messages[0]['content'] }}\nASSISTANT:{{ messages[1]['content'] if messages[1:] }}", "", ""),
    ],
)
def test_a_template_that_does_not_say_how_an_answer_begins(
    template: str, lead: str | None, before: str, models: dict[str, Any]
) -> None:
    model, _ = models["bytes with a start and a chat"]
    given = SimpleNamespace(tokenizer=byte_level(start=True, chat=template), cfg=model.cfg)
    prompt = ms.prompt(given, "the dog")
    assert prompt.answer_lead == lead
    assert word_ids(given, "Paris", prompt) == continuation_ids(given, before + "Paris", prompt)


@pytest.mark.parametrize("chat", [True, None])
def test_the_answer_of_a_chat_model_is_followed_where_it_begins(chat: bool | None, instruct_llama: Any) -> None:
    model = instruct_llama
    prompt = ms.prompt(model, "Tell me about the writer.", instruction="Use only uppercase letters.")
    if chat is None:
        prompt = ms.prompt(model, prompt.text, chat=False)
    text = ms.generate(model, prompt, max_new_tokens=4).texts[0]
    table = ms.logit_lens(model, prompt, [text.split()[0]])
    last = table.iloc[-1]
    assert last["rank"] == 1 and last["token"] == last["top1"] and last["word"] == text.split()[0]


def test_a_space_at_the_prompts_end_is_refused_with_the_fix(models: dict[str, Any]) -> None:
    model, _ = models["bytes"]
    with pytest.raises(ms.MechsteerError, match=r"changes the tokens before it .*leave out the white space at the end"):
        ms.score(model, "The capital of France is ", "Paris")
    with pytest.raises(ms.MechsteerError, match="leave out the white space"):
        ms.logit_lens(model, "The capital of France is ", ["Paris"])


def test_a_word_that_goes_on_is_refused(models: dict[str, Any]) -> None:
    model, _ = models["bytes"]
    with pytest.raises(ms.MechsteerError, match=r"\(ĠFr an becomes ĠFrance\), .*: begin it with a space"):
        ms.score(model, "The capital of Fran", "ce")


def test_words_that_begin_alike_are_said(models: dict[str, Any]) -> None:
    model, _ = models["bytes"]
    prompt = ms.prompt(model, "Tell me about the")
    pair = ("unro", "unfo")
    assert word_id(model, pair[0], prompt) == word_id(model, pair[1], prompt)
    with pytest.warns(UserWarning, match=r"'unro' and 'unfo' begin with the same token \(1 such tokens in 1 prompts\)"):
        table = ms.logit_lens(model, prompt, pair)
    assert set(table["word"]) == {"unro / unfo"} and (table["word_tokens"] > 1).all()
    traps: list[Any] = [
        SimpleNamespace(prompt="Tell me about the", target=target, trap=trap)
        for target, trap in [pair, ("Paris", "Rome"), ("never", "early")]
    ]
    with pytest.warns(UserWarning, match=r"same token in 1 of 3 examples, e\.g\. 'unro' and 'unfo'; they are left out"):
        mined = ms.gradient_direction(model, traps, layer=0)
    assert mined.meta["same_first_token"] == "1"
    assert mined.vector.equal(ms.gradient_direction(model, traps[1:], layer=0).vector)
    assert len(set(ms.score(model, prompt, [[" unro", " unfo"]])[0].tolist())) == 2


def test_text_that_is_written_comes_between(models: dict[str, Any]) -> None:
    for name in ("bytes", "▁ by the normalizer", "T5"):
        model, _ = models[name]
        prompt = ms.prompt(model, "Tell me about the writer .")
        before = "The capital of" if name == "T5" else " The capital of"
        written = continuation_ids(model, before, prompt)
        whole = continuation_ids(model, f"{before} Rome is", prompt)
        rest = continuation_ids(model, " Rome is", prompt, written=before)
        assert written + rest == whole and word_id(model, "Rome", prompt, written=before) == rest[0]


def test_an_encoder_decoders_text_begins_as_hugging_face_tokenises_a_target(models: dict[str, Any]) -> None:
    model, _ = models["T5"]
    prompt = ms.prompt(model, "Tell me about the writer .")
    for text in ("Paris", " Paris", "never ."):
        target = model.tokenizer(text_target=text, add_special_tokens=False)["input_ids"]
        assert continuation_ids(model, text, prompt) == target
    assert word_ids(model, "Paris", prompt) == model.tokenizer("Paris", add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_drops_spaces_needs_none(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = ms.prompt(model, "the cat")
    assert continuation_ids(model, "sat", prompt) == continuation_ids(model, " sat", prompt)


def test_a_prompt_of_another_tokenizer_is_refused(models: dict[str, Any]) -> None:
    model, _ = models["▁ first"]
    for foreign in (
        ms.prompt(models["bytes"][0], "The capital of France is"),
        replace(ms.prompt(model, "The capital of France is"), text="The capital of Italy"),
    ):
        with pytest.raises(ms.MechsteerError, match="are not this tokenizer's of its text"):
            ms.score(model, foreign, " Paris")
    cropped = ms.prompt(model, "The capital of France is")
    cropped = replace(cropped, tokens=cropped.tokens[1:])
    assert ms.score(model, cropped, " Paris").isfinite().all()


def test_continuations_of_measurements_and_learned_vectors_are_what_follows(models: dict[str, Any]) -> None:
    model, _ = models["▁ by the normalizer"]
    text, said = "The capital of France is", " Paris"
    prompt = ms.prompt(model, text)
    after = model.tokenizer.convert_ids_to_tokens(continuation_ids(model, said, prompt))
    assert after[0].startswith("▁P")
    shown = [readable(name) for name in (*prompt.str_tokens, *after)]
    influence = ms.influence(model, prompt, "task", continuation=said)
    assert influence[influence["layer"] == 0]["token"].tolist() == shown
    assert ms.analysis.attention(model, prompt, 0, continuation=said)[1] == shown
    ids, real = sparse_examples.continuations(model, [prompt], [said])
    assert ids[real].tolist() == continuation_ids(model, said, prompt)
    shares = sparse_examples.distribution(model, prompt, {" Paris": 0.75, " Rome": 0.25})
    assert shares.nonzero()[:, 0].tolist() == sorted(word_id(model, word, prompt) for word in ("Paris", "Rome"))


@pytest.mark.parametrize(("name", "space"), [("bytes", " "), ("bytes with a start and a chat", ""), ("T5", "")])
def test_memotrap_scores_endings_as_they_follow(name: str, space: str, models: dict[str, Any]) -> None:
    model, _ = models[name]
    trap = Trap("Write a quote that ends in the word early : Better late than", (" never .", " early ."), 1)
    (row,) = MemoTrap("one", (trap,), max_new_tokens=2).run(model).to_dict("records")
    scores = ms.score(model, trap.prompt, [[f"{space}never .", f"{space}early ."]])[0].tolist()
    assert [row["logprob_trap"], row["logprob_target"]] == pytest.approx(scores, abs=1e-4)
    assert row["correct"] == (scores[1] > scores[0])


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "T5"])
def test_a_word_gets_no_space_where_people_write_none(name: str, models: dict[str, Any]) -> None:
    model, hf = models[name]
    for text, word in (('The capital is "', "Paris"), ("the capital (", "Rome"), ("The house", ".")):
        prompt = ms.prompt(model, text, chat=False)
        ids = following(model, prompt, word)
        assert ids and word_ids(model, word, prompt) == ids, (text, word)
        lens = ms.logit_lens(model, prompt, [word]).iloc[-1]
        assert lens["probability"] == pytest.approx(
            float(logprobs(hf, prompt.tokens.tolist(), ids)[0, ids[0]].exp()), abs=1e-4
        )


def test_a_special_token_is_followed_as_itself(models: dict[str, Any]) -> None:
    for name in TOKENIZERS:
        model, _ = models[name]
        end = model.tokenizer.eos_token
        assert word_ids(model, end, ms.prompt(model, "The capital of France is")) == [model.tokenizer.eos_token_id]


def test_a_tokens_name_is_no_word(models: dict[str, Any]) -> None:
    for name, given in (("bytes", "Ġcapital"), ("▁ first", "▁capital")):
        model, _ = models[name]
        number = model.tokenizer.convert_tokens_to_ids(given)
        with pytest.raises(
            ms.MechsteerError, match=f"is the name of a token, and no word: give 'capital', or .* {number}"
        ):
            ms.logit_lens(model, "The", [given])


def test_a_word_that_the_model_has_no_embedding_of_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<|user|>"])  # and nobody resized the embeddings
    folder, _ = write(tmp_path, "gpt2", tokenizer, vocab_size=rows)
    model = ms.load(folder, check=False)
    for use in (
        lambda: ms.logit_lens(model, "The", ["<|user|>"]),
        lambda: ms.score(model, "The", "<|user|>"),
        lambda: ms.generate(model, "The <|user|>"),
    ):
        with pytest.raises(ms.MechsteerError, match=f"(token {rows}, .*knows|knows more tokens than the model)"):
            use()
