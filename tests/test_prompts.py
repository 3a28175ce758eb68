"""Spans lie where the parts of the prompt are, and batches pad without losing anything."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.prompts import Prompt
from tests.tiny import WORDS, byte_level_tokenizer, tokenizer

PLAIN = SimpleNamespace(tokenizer=tokenizer(seq2seq=False))
SEQ2SEQ = SimpleNamespace(tokenizer=tokenizer(seq2seq=True))
CHAT = SimpleNamespace(tokenizer=tokenizer(seq2seq=False, chat=True))
BYTES = SimpleNamespace(tokenizer=byte_level_tokenizer())
KNOWN = [w for w in WORDS if w.isalpha()]


def words(prompt: Prompt, span: str) -> list[str]:
    """The tokens of a span."""
    return [prompt.str_tokens[i] for i in prompt.positions(span)]


def with_template(template: str) -> Any:
    made = tokenizer(seq2seq=False)
    made.chat_template = template
    return SimpleNamespace(tokenizer=made)


def test_a_plain_text_is_all_task_and_special_tokens_are_outside() -> None:
    p = ms.prompt(PLAIN, "the cat sat")
    assert p.str_tokens == ("<s>", "the", "cat", "sat") and p.spans == {"task": [(1, 4)]} and len(p) == 4
    q = ms.prompt(SEQ2SEQ, "the cat sat")
    assert q.str_tokens == ("the", "cat", "sat", "</s>") and q.spans == {"task": [(0, 3)]}


def test_parts_stand_in_the_default_order_with_a_span_each() -> None:
    p = ms.prompt(PLAIN, "the task", instruction="answer in capitals .", context="red house")
    assert p.text == "answer in capitals .\n\nred house\n\nthe task"
    assert p.spans == {"instruction": [(1, 5)], "context": [(5, 7)], "task": [(7, 9)]}


def test_order_and_separator_are_the_callers() -> None:
    p = ms.prompt(PLAIN, "the task", instruction="answer", order=("task", "instruction"), separator=" : ")
    assert p.text == "the task : answer"
    assert (words(p, "task"), words(p, "instruction")) == (["the", "task"], ["answer"])


def test_a_part_that_order_leaves_out_is_refused() -> None:
    with pytest.raises(ms.MechsteerError, match=r"leaves out \['instruction'\], which was given"):
        ms.prompt(PLAIN, "the task", instruction="answer", order=("task",))


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ms.MechsteerError, match=r"Unknown prompt part 'tsk'.*'task'"):
        ms.prompt(PLAIN, "the task", order=("tsk",))


@pytest.mark.filterwarnings("ignore:The instruction .* is in the text as well")
def test_repeated_text_is_marked_in_its_own_place_only() -> None:
    p = ms.prompt(PLAIN, "quote : answer in capitals , answer in capitals", instruction="answer in capitals")
    assert p.spans == {"instruction": [(1, 4)], "task": [(4, 13)]}
    q = ms.prompt(PLAIN, "answer in capitals the cat", instruction="answer in capitals", order=("task", "instruction"))
    assert q.spans["instruction"] == [(6, 9)]


@pytest.mark.parametrize(("tag", "level"), [("!", "level1"), ("!!", "level2"), ("!!!", "level3")])
def test_guides_tags_mark_an_instruction_of_their_level(tag: str, level: str) -> None:
    p = ms.prompt(PLAIN, f"<{tag}-> answer in capitals <-{tag}> the cat")
    assert p.text == "answer in capitals the cat"
    assert p.spans == {"instruction": [(1, 4)], level: [(1, 4)], "task": [(4, 6)]}


def test_the_influence_tag_marks_without_emphasis() -> None:
    p = ms.prompt(PLAIN, "the <?-> cat sat <-?> on mat")
    assert p.spans == {"task": [(1, 2), (4, 6)], "influence": [(2, 4)]}


def test_several_tags_make_several_ranges() -> None:
    p = ms.prompt(PLAIN, "<!-> red <-!> cat <!!-> blue dog <-!!> sat <!-> one <-!>")
    assert p.spans["level1"] == [(1, 2), (6, 7)] and p.spans["level2"] == [(3, 5)]
    assert words(p, "instruction") == ["red", "blue", "dog", "one"] and words(p, "task") == ["cat", "sat"]


def test_tags_work_inside_every_part() -> None:
    p = ms.prompt(PLAIN, "the cat", instruction="answer <!!!-> in capitals <-!!!>")
    assert words(p, "instruction") == ["answer", "in", "capitals"] and words(p, "level3") == ["in", "capitals"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-> the cat", r"Tag '<!->' needs <-!> to close it, found nothing"),
        ("<!-> the cat <-!!>", r"Tag '<!->' needs <-!> to close it, found '<-!!>'"),
        ("the <-!> cat", r"Closing tag '<-!>' has no opening tag"),
        ("<!-> the <-!> cat <-?>", r"Closing tag '<-\?>' has no opening tag"),
        ("<!-> the <!!-> cat <-!> sat", "Tags cannot be nested"),
        ("<!!-> the <!-> cat <-!> sat <-!!>", r"Tags cannot be nested|needs <-!!> to close it"),
    ],
)
def test_unbalanced_and_nested_tags_are_refused(text: str, message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.prompt(PLAIN, text)


def test_text_that_only_looks_like_a_tag_is_text() -> None:
    assert ms.prompt(PLAIN, "the <!> cat -> <- sat").text == "the <!> cat -> <- sat"


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "<!-> <-!>"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(ms.MechsteerError, match="The prompt is empty"):
        ms.prompt(PLAIN, text)


def test_an_instruction_alone_is_a_prompt() -> None:
    assert ms.prompt(PLAIN, "", instruction="answer").spans == {"instruction": [(1, 2)]}


def test_white_space_between_words_belongs_and_at_the_ends_does_not() -> None:
    p = ms.prompt(BYTES, "the cat", instruction=" answer in\n\ncapitals \n")
    start, end = p.spans["instruction"][0]
    assert p.spans["instruction"] == [(start, end)]
    text = BYTES.tokenizer.decode(p.tokens[start:end])
    assert text.strip() == "answer in\n\ncapitals" and not text.endswith((" ", "\n"))


def test_a_chat_template_is_used_when_there_is_one() -> None:
    p = ms.prompt(CHAT, "the cat", instruction="answer in capitals")
    assert p.text.startswith("<s> user : answer in capitals\n\nthe cat </s><s> answer :")
    assert (words(p, "instruction"), words(p, "task")) == (["answer", "in", "capitals"], ["the", "cat"])


def test_special_tokens_are_added_once() -> None:
    assert ms.prompt(CHAT, "the cat").str_tokens.count("<s>") == 2  # one a message, as the template says
    assert ms.prompt(CHAT, "the cat", chat=False).str_tokens == ("<s>", "the", "cat")


def test_a_system_message_comes_first_and_is_in_no_span() -> None:
    p = ms.prompt(CHAT, "the cat", system="the cat ends")
    assert p.text.startswith("<s> system : the cat ends </s>")
    assert p.spans == {"task": [(10, 12)]} and p.str_tokens[7:10] == ("<s>", "<unk>", ":")


def test_a_template_that_strips_the_message_keeps_the_spans() -> None:
    model = with_template("{% for m in messages %}{{ m['role'] }} : {{ m['content'] | trim }} </s>{% endfor %}")
    p = ms.prompt(model, "the cat \n ", instruction="\n answer in capitals")
    assert p.text == "user : answer in capitals\n\nthe cat </s>"
    assert (words(p, "instruction"), words(p, "task")) == (["answer", "in", "capitals"], ["the", "cat"])


def test_a_template_that_holds_the_text_of_the_message_does_not_mislead() -> None:
    model = with_template("the cat sat. {% for m in messages %}{{ m['content'] }}{% endfor %} the cat")
    p = ms.prompt(model, "the cat", instruction="sat")
    assert p.spans == {"instruction": [(4, 5)], "task": [(5, 7)]}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | replace('cat', 'dog') }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}",
        "nothing of it",
    ],
)
def test_a_template_that_rewrites_the_message_is_refused(template: str) -> None:
    with pytest.raises(ms.MechsteerError, match="pass chat=False"):
        ms.prompt(with_template(template), "the cat")


def test_chat_and_system_need_a_template() -> None:
    with pytest.raises(ms.MechsteerError, match="no chat template"):
        ms.prompt(PLAIN, "the cat", chat=True)
    with pytest.raises(ms.MechsteerError, match="system message needs a chat template"):
        ms.prompt(PLAIN, "the cat", system="answer")
    with pytest.raises(ms.MechsteerError, match="system message needs a chat template"):
        ms.prompt(CHAT, "the cat", system="answer", chat=False)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = SimpleNamespace(is_fast=False, chat_template=None)
    with pytest.raises(ms.MechsteerError, match=r"'fast' one.*SimpleNamespace"):
        ms.prompt(SimpleNamespace(tokenizer=slow), "the cat")
    with pytest.raises(ms.MechsteerError, match="NoneType"):
        ms.prompt(SimpleNamespace(tokenizer=None), "the cat")


def test_an_unknown_span_names_the_prompts_spans() -> None:
    p = ms.prompt(PLAIN, "the cat", instruction="answer")
    with pytest.raises(ms.MechsteerError, match=r"Unknown span .*the cat.*'instructions'.*'instruction'"):
        p.positions("instructions")


def test_positions_are_ascending_and_counted_once() -> None:
    p = Prompt("x", ms.prompt(PLAIN, "the cat sat on mat").tokens, {"a": [(3, 5), (1, 4)]})
    assert p.positions("a") == [1, 2, 3, 4]


phrase = st.lists(st.sampled_from(KNOWN), min_size=1, max_size=6).map(" ".join)


@pytest.mark.filterwarnings("ignore:The instruction .* is in the text as well")
@settings(max_examples=60)
@given(
    model=st.sampled_from([PLAIN, SEQ2SEQ, CHAT, BYTES]),
    task=phrase,
    instruction=phrase,
    context=st.none() | phrase,
    order=st.permutations(["instruction", "context", "task"]),
    separator=st.sampled_from(["\n\n", " ", " , "]),
)
def test_the_tokens_of_a_span_spell_its_text(
    model: Any, task: str, instruction: str, context: str | None, order: list[str], separator: str
) -> None:
    p = ms.prompt(model, task, instruction=instruction, context=context, order=order, separator=separator)
    offsets = model.tokenizer(p.text, add_special_tokens=False, return_offsets_mapping=True)
    skipped = 1 if model is PLAIN else 0  # its tokenizer puts <s> before the text
    given_parts = {"task": task, "instruction": instruction, "context": context}
    assert set(p.spans) == {name for name, text in given_parts.items() if text}
    for name, text in given_parts.items():
        if text:
            ((start, end),) = p.spans[name]
            pieces = offsets["offset_mapping"][start - skipped : end - skipped]
            assert p.text[pieces[0][0] : pieces[-1][1]].strip() == text


def test_batches_pad_on_the_side_that_is_asked_for() -> None:
    prompts = [ms.prompt(PLAIN, "the cat sat"), ms.prompt(PLAIN, "dog")]
    left, right = (ms.batch(prompts, side=side, pad_id=7) for side in ("left", "right"))
    assert left.tokens.tolist() == [[3, 4, 6, 8], [7, 7, *prompts[1].tokens.tolist()]]
    assert left.mask.tolist() == [[True] * 4, [False, False, True, True]] and left.starts == (0, 2)
    assert right.tokens[1].tolist() == [*prompts[1].tokens.tolist(), 7, 7]
    assert right.mask.tolist() == [[True] * 4, [True, True, False, False]] and right.starts == (0, 0)
    assert len(left) == 2 and left.length == 4 and left.prompts == tuple(prompts)


@settings(max_examples=30)
@given(texts=st.lists(phrase, min_size=1, max_size=5), side=st.sampled_from(["left", "right"]))
def test_the_real_tokens_of_a_batch_are_the_prompts(texts: list[str], side: str) -> None:
    prompts = [ms.prompt(PLAIN, text) for text in texts]
    made = ms.batch(prompts, side=side)
    for row, p in enumerate(prompts):
        assert made.tokens[row][made.mask[row]].equal(p.tokens)
        assert made.mask[row, made.starts[row] : made.starts[row] + len(p)].all()


def test_a_batch_needs_prompts_and_a_side() -> None:
    with pytest.raises(ms.MechsteerError, match="No prompts"):
        ms.batch([], side="left")
    with pytest.raises(ms.MechsteerError, match="Unknown padding side 'middle'"):
        ms.batch([ms.prompt(PLAIN, "cat")], side="middle")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["the cat"], r"A batch is of prompts that ms\.prompt has made, got 'the cat'"),
        ("the cat", "prompts must be a list, got 'the cat'"),
        (ms.prompt(PLAIN, "cat"), r"prompts must be a list, got Prompt\('cat'"),
    ],
)
def test_a_batch_is_of_prompts(prompts: Any, message: str, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.batch(prompts, side="left")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system": ["be brief"]}, r"The system message of a prompt is a text, got \['be brief'\]"),
        ({"separator": None}, "The separator of a prompt is a text, got None"),
        ({"order": None}, "order must be a list, got None"),
        ({"order": "task"}, "order must be a list, got 'task'"),
    ],
)
def test_what_joins_the_parts_is_checked(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.prompt(CHAT, "the task", instruction="answer", **options)


def test_a_span_that_is_not_within_the_prompt_is_refused() -> None:
    made = ms.prompt(PLAIN, "the cat sat")
    outside = replace(made, spans={"task": [(1, len(made) + 1)]})
    with pytest.raises(ms.MechsteerError, match=r"span 'task' of Prompt\(.*is not within its 4 tokens"):
        outside.positions("task")


@pytest.mark.parametrize("span", [3, None, ["task"]])
def test_a_span_that_is_no_name_is_unknown(span: Any, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=r"Unknown span.*'?task"):
        ms.prompt(PLAIN, "the cat").positions(span)


@pytest.mark.parametrize(
    ("span", "how"),
    [
        ("instruction", r"instruction=\.\.\.\), in the text <!-> \.\.\. <-!> around it, or --instruction"),
        ("context", r"context=\.\.\."),
        ("level2", "<!!-> ... <-!!>"),
        ("influence", r"<\?-> \.\.\. <-\?>"),
    ],
)
def test_a_span_that_a_plain_text_lacks_is_said_with_how_to_mark_it(span: str, how: str, tiny: Callable) -> None:
    plain = ms.prompt(tiny("gpt2"), "the cat")
    for ask in (plain.positions, plain.span_text):
        with pytest.raises(ms.MechsteerError, match=f"Unknown span .*'{span}'.*To mark it: .*{how}"):
            ask(span)
    with pytest.raises(ms.MechsteerError) as caught:
        plain.positions("nowhere")
    assert "To mark it" not in str(caught.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda m: ms.generate(m, "the cat", steer=ms.attention_bias(delta=1.0)),
        lambda m: ms.attention_bias().explain(m, "the cat"),
        lambda m: ms.generate(m, "the cat", strategy=ms.Directer()),
        lambda m: ms.generate(m, "the cat", strategy=ms.Gated([ms.spotlight()])),
        lambda m: ms.generate(
            m, "the cat", steer=ms.add(ms.random_direction(m, layer=0, seed=0), scope="span:instruction")
        ),
        lambda m: ms.influence(m, "the cat"),
        lambda m: ms.rollout(m, "the cat"),
        lambda m: ms.layer_sensitivity(m, "the cat"),
        lambda m: ms.match_influence(m, "the cat", target=0.5),
        lambda m: ms.capture(m, ["the cat"], sites="influence:instruction", positions="all"),
    ],
)
def test_everything_that_needs_a_marked_instruction_says_how_to_mark_it(use: Callable, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"'instruction'.*To mark it: ms\.prompt\(model, text, instruction="):
        use(tiny("llama-gqa"))
