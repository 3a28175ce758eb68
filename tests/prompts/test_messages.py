"""Prompts of several turns, and of text that is templated already: Hugging Face's tokens, spans where they belong."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.models import as_prompts
from tests.tokenizers import CHATML, LLAMA2, byte_level, prepending

CHATS = {
    "chatml": byte_level(chat=CHATML),
    "chatml with a start": byte_level(start=True, chat="{{ bos_token }}" + CHATML),
    "chatml, trimmed": byte_level(start=True, chat=CHATML.replace("m['content']", "m['content'] | trim")),
    "llama 2": prepending("normalizer", chat=LLAMA2),
    "llama 2, first": prepending("first", chat=LLAMA2),
}
USER = [{"role": "user", "content": "Tell me about the writer ."}]
TALK = [
    {"role": "user", "content": "Use only uppercase letters . Who is the writer ?"},
    {"role": "assistant", "content": "PARIS"},
    {"role": "user", "content": " Tell me about the dog . \n"},
]
SYSTEM = [{"role": "system", "content": "Use only uppercase letters ."}, *USER]
RULE = "Use only uppercase letters ."


def of(name: str) -> Any:
    return SimpleNamespace(tokenizer=CHATS[name])


def theirs(name: str, turns: list[dict[str, str]], **options: Any) -> list[int]:
    options = {"add_generation_prompt": True} | options
    return list(CHATS[name].apply_chat_template(turns, tokenize=True, return_dict=True, **options)["input_ids"])


@pytest.mark.parametrize("turns", [USER, TALK, SYSTEM], ids=["one", "several", "system"])
@pytest.mark.parametrize("name", CHATS)
def test_messages_are_hugging_faces_tokens(name: str, turns: list[dict[str, str]]) -> None:
    if turns is SYSTEM and "llama" in name:
        with pytest.raises(ms.MechsteerError, match="refuses system and user messages: user and assistant only"):
            ms.prompt(of(name), turns)
        return
    made = ms.prompt(of(name), turns)
    assert made.tokens.tolist() == theirs(name, turns)
    assert made.span_text("task") == turns[-1]["content"].strip()
    if turns is USER:
        assert made.tokens.tolist() == ms.prompt(of(name), turns[0]["content"]).tokens.tolist()


@pytest.mark.parametrize("name", CHATS)
def test_a_last_message_of_the_assistant_is_continued(name: str) -> None:
    turns = [*USER, {"role": "assistant", "content": "The dog"}]
    made = ms.prompt(of(name), turns)
    wanted = theirs(name, turns, add_generation_prompt=False, continue_final_message=True)
    assert made.tokens.tolist() == wanted and made.text.endswith("The dog") and made.answer_lead is None


@pytest.mark.parametrize("content", ["", " ", "\n"])
def test_an_empty_message_of_the_assistant_is_the_header_or_refused(content: str) -> None:
    turns = [*USER, {"role": "assistant", "content": content}]
    assert ms.prompt(of("chatml"), turns).text == ms.prompt(of("chatml"), USER).text + content
    with pytest.raises(ms.MechsteerError, match=r"assistant's last message is empty, .* leave it out"):
        ms.prompt(of("chatml, trimmed"), turns)


@pytest.mark.parametrize("turns", [TALK, SYSTEM], ids=["first turn", "system"])
def test_the_instruction_is_found_in_any_turn(turns: list[dict[str, str]]) -> None:
    made = ms.prompt(of("chatml"), turns, instruction=RULE)
    plain = ms.prompt(of("chatml"), turns)
    assert made.tokens.equal(plain.tokens) and made.span_text("instruction") == RULE
    assert made.span_text("task") == turns[-1]["content"].strip()
    tagged = [turns[0] | {"content": turns[0]["content"].replace(RULE, f"<!-> {RULE} <-!>")}, *turns[1:]]
    assert ms.prompt(of("chatml"), tagged).spans["instruction"] == made.spans["instruction"]


def test_an_instruction_in_the_last_user_message_is_not_task() -> None:
    turns = [{"role": "user", "content": f"Who is the writer ? {RULE} And the dog ?"}]
    made = ms.prompt(of("chatml"), turns, instruction=RULE, context="dog")
    assert made.span_text("instruction") == RULE and made.span_text("context") == "dog"
    assert made.span_text("task") == "Who is the writer ? … And the … ?"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (USER, r"'Use only uppercase letters \.' is in none of the messages: give it as it stands"),
        ([*SYSTEM, {"role": "user", "content": RULE}], r"is in the messages 2 times: mark .* with <!-> and <-!>"),
    ],
)
def test_an_instruction_that_is_not_there_once_is_refused(turns: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.prompt(of("chatml"), turns, instruction=RULE)


def test_an_instruction_that_a_text_has_already_is_said() -> None:
    with pytest.warns(UserWarning, match=r"'the dog' is in the text as well, .* twice; .* between <!-> and <-!>"):
        made = ms.prompt(of("chatml"), "Tell me about the dog .", instruction="the dog")
    assert made.span_text("instruction") == "the dog"


@pytest.mark.parametrize("name", CHATS)
def test_templated_text_is_refused_or_taken_as_it_is(name: str) -> None:
    text = CHATS[name].apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    with pytest.raises(ms.MechsteerError, match=r"user's message already holds '.*', a mark .* chat=False"):
        ms.prompt(of(name), text)
    with pytest.raises(ms.MechsteerError, match="already holds"):
        ms.prompt(of(name), [{"role": "user", "content": text}])
    made = ms.prompt(of(name), text, chat=False)
    wanted = theirs(name, USER)
    start = CHATS[name].bos_token_id
    begins = [start] if "llama" in name or "trimmed" in name else []  # these tokenizers start every text
    assert made.tokens.tolist() == (wanted if wanted[:1] == [start] else begins + wanted)


@pytest.mark.parametrize(
    "template", ["USER: {{ messages[0]['content'] }}\nASSISTANT:", "# {{ messages[-1].content }} #"]
)
def test_a_template_of_plain_words_knows_its_own_text(template: str) -> None:
    model = SimpleNamespace(tokenizer=byte_level(chat=template))
    made = ms.prompt(model, "the dog")
    with pytest.raises(ms.MechsteerError, match="already holds"):
        ms.prompt(model, made.text)
    assert ms.prompt(model, "the ASSISTANT: # of USER: the dog").span_text("task").endswith("dog")


@pytest.mark.parametrize("text", ["<s>the dog", "<s><s>the dog", "the dog"])
def test_a_start_token_stands_once(text: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    made = ms.prompt(model, text)
    assert made.str_tokens == ("<s>", "the", "dog") and len(made.offsets) == 3
    assert made.span_text("task").endswith("the dog")
    wanted = ms.generate(model, ["the dog"], max_new_tokens=3).tokens
    assert ms.generate(model, text, max_new_tokens=3).tokens.equal(wanted)
    assert ms.score(model, text, " sat").allclose(ms.score(model, "the dog", " sat"))


def test_template_arguments_are_used_and_kept() -> None:
    made = ms.prompt(of("chatml"), USER, template={"enable_thinking": False})
    assert made.tokens.tolist() == theirs("chatml", USER, enable_thinking=False)
    assert made.template == {"enable_thinking": False} and "</think>" in made.text
    assert ms.prompt(of("chatml"), USER).template == {} and ms.prompt(of("chatml"), "dog", chat=False).template is None
    same = ms.prompt(of("chatml"), USER[0]["content"], template={"enable_thinking": False})
    assert same.tokens.equal(made.tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_thinkin": False}, r"no argument 'enable_thinkin'\. Did you mean 'enable_thinking'"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' is no argument"),
        ({"enable_thinking": {1, 2}}, "'enable_thinking' must be plain data"),
    ],
)
def test_arguments_that_the_template_lacks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.prompt(of("chatml"), USER, template=arguments)
    with pytest.raises(ms.MechsteerError, match="Template arguments need a chat template"):
        ms.prompt(SimpleNamespace(tokenizer=byte_level()), "the dog", template=arguments)


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "made of a text or of messages"),
        ([3], {}, "made of a text or of messages"),
        ([{"role": "user"}], {}, "content must be a text"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], {}, "content must be a text"),
        ([{"content": "the dog"}], {}, "role must be a text"),
        ([{"role": "user", "content": " "}], {}, "The prompt is empty"),
        (USER, {"system": "dog"}, "leave out system and chat"),
        (USER, {"chat": False}, "leave out system and chat"),
    ],
)
def test_what_are_no_messages_is_refused(messages: Any, options: Any, message: str, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.prompt(of("chatml"), messages, **options)


@pytest.mark.parametrize(
    ("role", "meant"),
    [("asistant", "assistant"), ("usr", "user"), ("User", "user"), ("sytem", "system"), ("tol", "tool")],
)
def test_a_misspelt_role_is_refused(role: str, meant: str) -> None:
    turns = [*USER, {"role": role, "content": "Sure ."}, *USER]
    with pytest.raises(ms.MechsteerError, match=f"Unknown role '{role}'.* Did you mean '{meant}'"):
        ms.prompt(of("chatml"), turns)
    task = ms.task([{"prompt": turns}], "lowercase")
    with pytest.raises(ms.MechsteerError, match=f"Sample 0: Unknown role '{role}'"):
        task.prompts(of("chatml"))


@pytest.mark.parametrize("role", ["tool", "developer", "ipython", "observation", "critic", "tools"])
def test_roles_of_other_kinds_are_the_templates_to_judge(role: str) -> None:
    named = SimpleNamespace(
        tokenizer=byte_level(chat=CHATML + "{# #}{% if messages[0]['role'] == 'tools' %}{% endif %}")
    )
    turns = [*USER, {"role": role, "content": "Sure ."}, *USER]
    assert f"<|im_start|>{role}" in ms.prompt(named, turns).text


def test_messages_need_a_template() -> None:
    with pytest.raises(ms.MechsteerError, match="Messages need a chat template"):
        ms.prompt(SimpleNamespace(tokenizer=byte_level()), USER)


@pytest.mark.parametrize(
    "template",
    ["{% for m in %}", "{{ nothing.at.all }}", "{{ messages[7].content }}", "{{ 1 / 0 }}", "{{ 'a' + 3 }}", "x", 5],
)
def test_a_broken_template_is_one_clear_error(template: Any) -> None:
    broken = byte_level(chat="{{ messages[0].content }}")
    broken.chat_template = template
    with pytest.raises(ms.MechsteerError, match=r"^This chat template ") as found:
        ms.prompt(SimpleNamespace(tokenizer=broken), "the dog")
    assert "\n" not in str(found.value) and len(str(found.value)) < 300


def test_messages_go_where_a_text_goes(tiny: Callable) -> None:
    model = tiny("llama-gqa", chat=True)
    turns = [{"role": "user", "content": "the cat"}]
    wanted = ms.generate(model, "the cat", max_new_tokens=3).tokens
    assert ms.generate(model, turns, max_new_tokens=3).tokens.equal(wanted)
    assert ms.generate(model, [turns, "the cat"], max_new_tokens=3).tokens[0].equal(wanted[0])
    assert len(as_prompts(model, [turns, turns])) == 2 and len(as_prompts(model, turns * 2)) == 1
    assert ms.score(model, turns, " sat").allclose(ms.score(model, "the cat", " sat"))
    assert len(ms.logit_lens(model, turns, top_k=1)) and len(ms.volatility(model, [turns, turns]))
    assert len(ms.influence(model, turns, "task")) and len(ms.capture(model, turns, sites=["resid_post"]))
    assert len(ms.Intervention().explain(model, turns)) == 0
    direction = ms.difference_in_means(model, [(turns, "red")], layer=0)
    assert direction.vector.equal(ms.difference_in_means(model, [("the cat", "red")], layer=0).vector)
    trap: Any = SimpleNamespace(prompt=turns, target="red", trap="blue")
    assert ms.gradient_direction(model, [trap], layer=0).vector.isfinite().all()


def test_a_conversation_is_no_pair(tiny: Callable, unchecked: None) -> None:
    turns: Any = [{"role": "user", "content": "the cat"}] * 2
    with pytest.raises(ms.MechsteerError, match="A pair is"):
        ms.difference_in_means(tiny("llama-gqa", chat=True), [turns, turns], layer=0)
    with pytest.raises(ms.MechsteerError, match="An example is"):
        ms.sparse_direction(tiny("llama-gqa", chat=True), [turns], layer=0)


def test_a_prompt_shows_its_text_template_and_spans() -> None:
    made = ms.prompt(of("chatml"), "Who is the dog ?", instruction=RULE, template={"enable_thinking": False})
    assert "instruction [(" in repr(made) and repr(RULE) in repr(made) and "'Who is the dog ?'" in repr(made)
    assert "chat template with {'enable_thinking': False}" in repr(made) and f"{len(made)} tokens" in repr(made)
    assert len(repr(ms.prompt(of("chatml"), "the dog " * 900, instruction="Use " * 900))) < 400
    assert "span_text" not in repr(replace(made, spans={"task": [(0, 9999)]}))
    with pytest.raises(ms.MechsteerError, match="Unknown span"):
        made.span_text("nope")
