"""Objects that show themselves: what stands in their HTML and text, escaped, small, and readable."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.comparison.summary import summarise
from mechsteer.display import CELL, LONGEST, Piece, rows_of, token_strip
from mechsteer.prompts.vocabulary import readable, together, token_bytes, token_pieces, token_text
from mechsteer.studies.core.result import Result, finish

SCRIPT = "<script>alert(1)</script>"
VOID = {"br", "img", "hr", "input", "meta"}


class Balanced(HTMLParser):
    """Fails on tags that do not match, and keeps the names of those that came."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_in(page: str) -> str:
    Balanced(page)
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


def test_what_came_from_a_model_stays_text() -> None:
    page = token_strip([Piece(SCRIPT, "blue", title=SCRIPT), Piece(SCRIPT)]) + rows_of(
        [(SCRIPT, 0.123456)], (SCRIPT, "")
    )
    assert "script" not in Balanced(page).seen
    assert text_in(page).count(SCRIPT) == 4 and "0.1235" in page


def test_long_strips_are_cut() -> None:
    page = token_strip([Piece(f" {n}") for n in range(LONGEST + 7)])
    assert "7 more tokens" in page and f" {LONGEST}" not in page


def test_prompt(model: Any) -> None:
    made = ms.prompt(model, f"Tell me about the fox. {SCRIPT}", instruction="Answer in été capitals.")
    page = made._repr_html_()
    assert made.text.replace("\n", "↵\n") in text_in(page)
    for token in made.positions("instruction"):
        assert f'title="{token}: instruction"' in page
    assert "0,114,178" in page and "instruction" in page and "faint" in page


def test_pieces_are_readable(model: Any) -> None:
    text = "Ça va, été? 日\n✓ done"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(model.tokenizer, ids)
    assert "Ġ" not in "".join(pieces) and "Ã" not in "".join(pieces)
    assert " été" in pieces and "\n" in pieces and pieces[:2] == ["\\xc3", "\\x87"]  # half a letter each
    letters = model.tokenizer("plain words", add_special_tokens=False)["input_ids"]
    assert "".join(token_pieces(model.tokenizer, letters)) == "plain words"


def test_generation(model: Any) -> None:
    prompts = [ms.prompt(model, f"What is a {what}?", instruction="Answer in capitals.") for what in ("fox", "bee")]
    out = ms.generate(model, prompts, max_new_tokens=6)
    assert repr(out).splitlines()[0] == f"Generation: 2 answers, {sum(out.lengths)} tokens"
    page = text_in(out._repr_html_())
    for number, text in enumerate(out.texts):
        assert text.split()[0] in page
        assert len(out.pieces[number]) == out.lengths[number]
        assert text.strip() in "".join(out.pieces[number])
    gated = ms.generate(model, prompts[:1], strategy=ms.Directer(), max_new_tokens=6)
    page = gated._repr_html_()
    line = gated.trace[~gated.trace["skipped"]].iloc[0]
    assert f"layers {line['layers']}" in page and "steered" in page and "open" in page
    assert "contrasted" in ms.generate(model, prompts[:1], strategy=ms.DoLa(), max_new_tokens=3)._repr_html_()


def test_direction_and_intervention() -> None:
    vector = torch.ones(4)
    known = ms.Direction(vector, "blocks.1.hook_resid_post", "by hand", 1.0, 8.0, {"note": SCRIPT})
    page = known._repr_html_()
    assert "script" not in Balanced(page).seen and "0.25" in page and "by hand" in text_in(page)
    steer = ms.add(known, scale=4.0) + ms.attention_bias(delta=1.0)
    page = text_in(steer._repr_html_())
    assert "0.50" in page and "instruction" in page and "attention_bias" in page
    assert "strength=4 = 0.50 norms" in repr(steer)
    unknown = ms.Direction(vector, "blocks.1.hook_resid_post", "by hand")
    assert "norms" not in repr(ms.add(unknown, scale=4.0)) and "mean projection" not in unknown._repr_html_()


def test_captured_activations_and_a_model(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    made = ms.capture(model, {"with": [SCRIPT, "the cat"], "without": ["the dog sat"]}, sites="resid_post")
    page = made._repr_html_()
    assert "script" not in Balanced(page).seen
    said = text_in(page)
    assert "Activations of 3 prompts" in said and all(site in said for site in made) and "without1" in said
    assert made.about["fingerprint"] in said and "positionslast" in said and "provenance" not in said
    info = replace(ms.model_info(model), name=SCRIPT)
    page = info._repr_html_()
    assert "script" not in Balanced(page).seen and info.fingerprint in page and SCRIPT in text_in(page)
    assert "revision" not in page, "what is not known is left out"


def test_store(tiny: Callable[..., Any], tmp_path: Path) -> None:
    store = ms.ActivationStore.create(tmp_path / "store")
    model = tiny("llama")
    ms.capture(model, ["the cat", "the dog sat"], sites="resid_post", store=store)
    opened = ms.ActivationStore.open(tmp_path / "store")
    page = text_in(opened._repr_html_())
    assert "2 prompts" in page and all(site in page for site in opened.sites)
    assert isinstance(opened.index_of(opened.sites[0]), pd.DataFrame)


@pytest.mark.parametrize(
    ("name", "text"),
    [("Ġété", " été"), ("ĠÃ©tÃ©", " été"), ("▁été", " été"), ("Ċ", "\n"), ("čĊ", "\r\n"), ("é", "é"), ("ć", "ć"),
     ("č", "č"),
     ("<0x0A>", "\n"), ("<0xC3>", "\\xc3"), ("<0x0>", "<0x0>"), ("日本", "日本"),
     ("æĹ¥", "日"), ("a▁b", "a b"), ("<|begin|>", "<|begin|>"), ("Ã", "Ã"), (" été", " été")],
)  # fmt: skip
def test_names_of_tokens_are_read_as_text(name: str, text: str) -> None:
    assert readable(name) == text


def test_tables_of_tokens_are_readable(model: Any) -> None:
    prompt = ms.prompt(model, "The été of the fox", chat=False)
    shown = "".join(ms.influence(model, prompt, "task").query("layer == 0")["token"])
    assert "été" in shown and not set("ĠÃ") & set(shown)
    states = ms.capture(model, [prompt], sites="resid_post", positions="all")
    assert "été" in "".join(states.index(next(iter(states)))["text"])
    lens = ms.logit_lens(model, [prompt], top_k=3)
    assert not any(set("ĠÃ") & set(name) for name in [*lens["token"], *lens["top1"]])
    assert ms.analysis.attention(model, prompt, 0)[1] == prompt._pieces()


@pytest.mark.parametrize("long", ["\"<&'>" * 1000, "日本語" * 1500, " ".join(f"🎉{n}" for n in range(900))])
def test_letters_of_several_bytes_fit_into_a_cell_too(long: str, tmp_path: Path) -> None:
    known = ms.Direction(torch.ones(4), "blocks.1.hook_resid_post", long, meta={f"{n} {long}": long for n in range(99)})
    tables = {
        name: pd.DataFrame({"prompt": [long] * 40, "output": [f"{n} {long}" for n in range(40)]}) for name in "ab"
    }
    rows = pd.DataFrame(
        [(w, f"{n} {long}", f"{w} {n} {long[n:]} {w}", True) for n in range(9) for w in "abcdef"],
        columns=["name", "prompt", "output", "adherence"],
    )
    compared = ms.Comparison(rows, summarise(rows, "adherence", {}), "adherence")
    for shown in (known, Result(tmp_path, tables), compared):
        page = shown._repr_html_()
        assert len(page.encode()) < CELL and "…" in page
        assert long[:5] in text_in(page), "what fits is shown"


def test_many_methods_fit_into_a_cell() -> None:
    rows = pd.DataFrame(
        [(f"GUIDE {w}", f"p {n}", f"{w} {n}", True) for n in range(5) for w in range(400)],
        columns=["name", "prompt", "output", "adherence"],
    )
    page = ms.Comparison(rows, summarise(rows, "adherence", {}), "adherence")._repr_html_()
    assert len(page.encode()) < CELL and "and 300 more rows" in page


def test_nothing_takes_more_than_a_cell(model: Any) -> None:
    long = "x" * 5000
    prompt = ms.prompt(model, "word é " * 6000, chat=False)
    assert len(prompt._repr_html_().encode()) < CELL
    count = 400
    many = [torch.zeros(count, dtype=torch.long)] * 20
    out = ms.Generation(
        [long] * 20, torch.stack(many), torch.full((20, count), -1.0), [count] * 20, tokenizer=model.tokenizer
    )
    assert len(out._repr_html_().encode()) < CELL
    known = ms.Direction(
        torch.ones(4), "blocks.1.hook_resid_post", "by hand", meta={f"note {n}": long for n in range(300)}
    )
    assert len(known._repr_html_().encode()) < CELL and "and 200 more rows" in known._repr_html_()
    steer = sum((ms.attention_bias(delta=1.0, layers=[0]) for _ in range(300)), start=ms.Intervention())
    assert len(steer._repr_html_().encode()) < CELL
    columns = ["name", "prompt", "output", "adherence"]
    rows = pd.DataFrame(
        [(w, f"p {n} {long}", f"{w} {n} {long}", True) for n in range(9) for w in "abcdef"], columns=columns
    )
    shown = ms.Comparison(rows, summarise(rows, "adherence", {}), "adherence")._repr_html_()
    assert len(shown.encode()) < CELL and "…" in shown


def test_a_result_of_a_study(tmp_path: Path) -> None:
    summary = pd.DataFrame(
        {"method": ["unsteered", "guide <1>", "pasta"], "adherence_percent": [20.0, 80.5, 10.0],
         "adherence_percent_low": [10.0, 70.0, 2.0], "adherence_percent_high": [30.0, 90.0, 20.0],
         "n": 40, "model_name": "tiny"}
    )  # fmt: skip
    wide = pd.DataFrame({f"c{n}": ["y" * 5000] * 400 for n in range(30)})
    result = Result(tmp_path, {"summary": summary, "wide": wide})
    said = "Adherence is highest with guide <1>: 80.5 % (95 % interval 70.0 to 90.0), where unsteered has 20.0 %"
    assert result.findings[0].startswith(said) and "lowest with pasta: 10.0 %" in result.findings[0]
    page = result._repr_html_()
    assert said in text_in(page) and "model_name" not in page and len(page.encode()) < CELL
    assert "wide (400 rows)" in repr(result) and said in repr(result)
    (tmp_path / "sweep.json").write_text("{}", encoding="utf-8")
    assert f"Result in {tmp_path}: a sweep\n" in repr(result) and "Result: a sweep" in text_in(result._repr_html_())
    finish(tmp_path, {"study": "guide"}, {"summary": summary})
    assert "GUIDE and Influence" in repr(result) and "GUIDE and Influence" in text_in(result._repr_html_())


def test_letters_of_several_tokens(model: Any) -> None:
    made = ms.prompt(model, "Tell 🎉 日 me", instruction="été 🎉.")
    assert made.text.replace("\n", "↵\n") in text_in(made._repr_html_())  # each letter once
    names = made.read()
    assert names == made._pieces() == ms.influence(model, made).query("layer == 0")["token"].tolist()
    assert names.count("\\xf0") == 2 and "🎉" not in names  # each token is one of four bytes
    kept = ms.capture(model, [made], sites="influence:instruction", positions="all")
    assert ms.influence(kept).query("layer == 0")["token"].tolist() == names
    told = ms.attention_bias(delta=1.0).explain(model, made)["tokens"].iloc[0]
    assert told.replace(" ", "") == "été🎉." and "\\x" not in told
    half = made.tokens.tolist()[names.index("\\xf0")]
    assert token_text(model.tokenizer, half) == "\\xf0"


def test_letters_of_several_tokens_in_an_answer(model: Any) -> None:
    text = "Ça va, été? 🎉 日本\n<b>"
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    count = ids.shape[1]
    logprobs = -torch.arange(1.0, count + 1)[None] / 10
    out = ms.Generation([text], ids, logprobs, [count], tokenizer=model.tokenizer)
    page = out._repr_html_()
    assert text.replace("\n", "↵\n") in text_in(page) and "\\x" not in page  # each letter once, as a letter
    assert len(out.pieces[0]) == count and "".join(out.pieces[0]) != text, "the pieces are the tokens'"
    assert page.count("nats)") == count, "under the pointer stands what each of a letter's tokens came to"
    cut = ms.Generation(["Ç"], ids[:, :1], logprobs[:, :1], [1], tokenizer=model.tokenizer)
    assert "\\xc3" in cut._repr_html_()  # half a letter


def test_tokens_that_are_bytes() -> None:
    """SentencePiece's byte tokens, as Llama 2, Mistral and Gemma have them, and ByT5's."""
    from transformers import ByT5Tokenizer

    class Names:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [["▁a", "<0x0A>", "<0xC3>", "<0xA9>", "t"][i] for i in ids]

    assert token_pieces(Names(), range(5)) == [" a", "\n", "\\xc3", "\\xa9", "t"]
    assert together(token_bytes(Names(), range(5))) == [[0], [1], [2, 3], [4]]
    assert together([b"a\xc3", b"\xa9 b", b"\xff", b"\xf0\x9f"]) == [[0, 1], [2], [3]]
    of_bytes = ByT5Tokenizer()
    ids = of_bytes("é\n日", add_special_tokens=False)["input_ids"]
    assert token_pieces(of_bytes, ids) == ["\\xc3", "\\xa9", "\n", "\\xe6", "\\x97", "\\xa5"]
    assert together(token_bytes(of_bytes, ids)) == [[0, 1], [2], [3, 4, 5]]


def test_one_is_no_plural_and_nothing_is_said(model: Any) -> None:
    out = ms.generate(model, "Hi", max_new_tokens=1)
    assert repr(out).startswith("Generation: 1 answer, 1 token\n") and "1 answer<" in out._repr_html_()
    empty = ms.Generation([""], out.tokens[:, :0], out.logprobs[:, :0], [0], tokenizer=model.tokenizer)
    assert "0: (empty)" in repr(empty) and "(empty)" in empty._repr_html_()
