"""Settings of the explorer: their Python makes the text that is shown, and strengths that do nothing do nothing."""

from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.explorer.desk import Desk, influence_by_layer, next_tokens
from mechsteer.explorer.methods import CONTROLS, control
from mechsteer.explorer.setting import Setting, _loading, first_setting, plan, tagged, without_instruction
from mechsteer.models.info import ModelInfo, set_info

TEXT = "Tell me about the writer. <!-> Use only uppercase letters. <-!>"
NEUTRAL = {"guide": 0.0, "pasta": 1.0, "spotlight": 0.0, "scale_keys": 1.0, "directer": 1.0, "contrast": 0.0}


@pytest.fixture(scope="module")
def direction(instruct_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = ms.random_direction(instruct_llama, layer=1, seed=4)
    return str(made.save(tmp_path_factory.mktemp("direction") / "d.safetensors"))


def shown(model: Any, setting: Setting) -> dict[str, list[str]]:
    """All contents of each part, in order."""
    parts: dict[str, list[str]] = {}
    for part, content in Desk(model).answers(setting):
        parts.setdefault(part, []).append(content)
    assert parts.pop("note") == [""]
    return parts


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "ms.load('a/model')"),
        ({"dtype": "bfloat16"}, "ms.load('a/model', dtype='bfloat16')"),
        ({"revision": "0123abcd", "fingerprint": "f-folded"}, "ms.load('a/model', revision='0123abcd', fold=True)"),
    ],
)
def test_the_python_loads_the_model_as_it_was_loaded(changes: dict[str, str], line: str) -> None:
    model = SimpleNamespace(cfg=None)
    known = {"revision": "", "fingerprint": "f", "dtype": "float32"} | changes
    set_info(model, ModelInfo(name="a/model", path="a", family="llama", **known))
    assert _loading(model).code() == line


SETTINGS = {
    "guide": {"strength": 2.0, "layers": (1, 2)},
    "pasta": {"strength": 0.1, "layers": (0,)},
    "spotlight": {"strength": 0.3},
    "scale_keys": {"strength": 1.5, "layers": (0, 3)},
    "directer": {"strength": 0.1},
    "contrast": {"strength": 1.0, "layers": (2,)},
    "random": {"strength": -1.5, "layers": (1,), "frozen": True},
    "vector": {"strength": 1.5},
}


@pytest.mark.parametrize("method", SETTINGS)
def test_the_python_makes_the_text_that_is_shown(
    instruct_llama: Any,
    direction: str,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting = Setting(TEXT, method, max_new_tokens=12, direction=direction, **SETTINGS[method])
    made = plan(instruct_llama, setting)
    *_, last = Desk(instruct_llama)._stream(made)
    if method != "guide":  # one is run as it is; the others need not load the model again
        monkeypatch.setattr(ms, "load", {"organism:instruct-llama": instruct_llama}.__getitem__)
    exec(made.code(), {})
    assert capsys.readouterr().out == f"{last.texts[-1]}\n" != "\n"


@pytest.mark.parametrize("method", NEUTRAL)
def test_a_strength_that_does_nothing_gives_the_unsteered_answer(instruct_llama: Any, method: str) -> None:
    layers = (0,) if CONTROLS[method].layers == "one" else None
    parts = shown(instruct_llama, Setting(TEXT, method, NEUTRAL[method], layers, max_new_tokens=12))
    assert parts["steered"][-1] == parts["unsteered"][-1]
    assert "<ins>" not in parts["steered"][-1]


def test_every_slider_has_its_start_and_every_grid_its_strengths() -> None:
    assert set(CONTROLS) == set(SETTINGS)
    for one in CONTROLS.values():
        assert one.start in one.strengths
        assert set(one.grid) <= set(one.strengths)


def test_answers_grow_side_by_side_and_end_with_changes_marked(instruct_llama: Any) -> None:
    setting = Setting(TEXT, "guide", 6.0, max_new_tokens=12)
    desk = Desk(instruct_llama)
    parts = [part for part, _ in desk.answers(setting)]
    assert parts[:4] == ["note", "code", "steered", "unsteered"]
    assert parts[-3:] == ["steered", "tokens", "influence"]
    again = list(desk.answers(setting))
    assert [part for part, _ in again].count("unsteered") == 1, "the unsteered answer is known"
    last = dict(again)
    assert "<ins>" in last["steered"]
    assert "data:image/png;base64," in last["influence"]


def test_next_tokens_are_those_of_generate(instruct_llama: Any) -> None:
    prompt, steer = ms.prompt(instruct_llama, TEXT), ms.attention_bias(delta=4.0)
    table = next_tokens(instruct_llama, [prompt], steer)
    for column, acting in (("unsteered", None), ("steered", steer)):
        made = ms.generate(instruct_llama, prompt, steer=acting, max_new_tokens=1)
        best = table.loc[table[column].idxmax()]
        assert best["token"] == made.pieces[0][0]
        assert best[column] == pytest.approx(float(made.logprobs[0, 0].exp()), rel=1e-4)


@pytest.mark.parametrize("name", ["instruct-llama", "trap-t5"])
def test_influence_by_layer_is_that_of_the_last_position(organism: Any, name: str) -> None:
    model = organism(name)
    prompt, steer = ms.prompt(model, TEXT), ms.attention_bias(delta=2.0)
    table = influence_by_layer(model, prompt, steer).pivot(index="layer", columns="answer", values="influence")
    assert len(table) == model.cfg.n_layers
    assert (table["steered"] > table["unsteered"]).all()


def test_the_grid_shows_one_answer_after_the_other(instruct_llama: Any) -> None:
    pages = [content for _, content in Desk(instruct_llama).grid(Setting(TEXT, "spotlight", max_new_tokens=4))]
    assert [page.count('class="card"') for page in pages] == [1, 2, 3, 4, 5, 6]
    assert "target = 0.7" in pages[-1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"text": "Tell me about the writer."}, "instruction"),
        ({"text": "a <!-> b"}, "needs <-!> to close it"),
        ({"text": " "}, "empty"),
        ({"method": "contrast", "text": "<!-> Only this. <-!>", "layers": (0,)}, "nothing is left"),
        ({"method": "contrast", "text": "None.", "layers": (0,)}, "No instruction is marked"),
        ({"method": "directer", "strength": 0.5, "frozen": True}, "DIRECTER"),
        ({"max_new_tokens": 5000}, "context"),
        ({"text": "<b>x <-!>"}, "no opening tag"),
    ],
)
def test_what_cannot_be_done_is_a_note(instruct_llama: Any, changed: dict[str, Any], said: str) -> None:
    *_, (part, content) = Desk(instruct_llama).answers(Setting(**{"text": TEXT, **changed}))
    assert part == "note"
    assert said in unescape(content)
    assert "<!->" not in content
    *_, (part, content) = Desk(instruct_llama).grid(Setting(**{"text": TEXT, **changed}))
    assert part == "note"


def test_an_answer_with_markup_stays_text() -> None:
    from mechsteer.explorer.views import answer_view, grid_view

    bad = "<script>alert(1)</script>"
    for page in (answer_view(bad), answer_view(bad, "other"), grid_view(bad, [(1.0, bad)], "other")):
        assert "<script" not in page


def test_names_of_methods_are_checked() -> None:
    with pytest.raises(ms.MechsteerError, match="Did you mean 'guide'"):
        control("guid")
    with pytest.raises(ms.MechsteerError, match="direction=FILE"):
        control("vector")


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_is_made_again_from_its_text(tiny: Any, chat: bool) -> None:
    model = tiny("llama", chat=chat)
    for given in (ms.prompt(model, "the cat", instruction="write capitals"), ms.prompt(model, "a <!-> dog <-!> sat")):
        setting = first_setting(model, given)
        again = plan(model, setting).variables["prompt"]
        assert again.tokens.tolist() == given.tokens.tolist()
        assert again.spans["instruction"] == given.spans["instruction"]
        assert "<!->" in tagged(given)
    assert first_setting(model, "the <!-> cat <-!>") == Setting("the <!-> cat <-!>")


def test_the_instruction_is_left_out() -> None:
    assert without_instruction("a <!!-> b\nc <-!!> d <!-> e <-!>") == "a d"


@pytest.mark.parametrize("end", ["<|im_end|>\n<|im_start|>assistant\n", "</s>"])
def test_the_end_that_a_template_writes_stays(end: str) -> None:
    for header in ("<|im_start|>user\n", "<|user|>"):
        for told in ("<!-> Use capitals. <-!>\n\nTell me.", "Tell me. <!-> Use capitals. <-!>"):
            left = without_instruction(f"{header}{told}{end}")
            assert left in (f"{header}Tell me.{end}", f"{header}Tell me. {end}")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [None, [{"role": "user", "content": "the cat"}]])
def test_what_is_no_prompt_is_refused(given: Any, tiny: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=r"a text or what mechsteer\.prompt makes, got"):
        first_setting(tiny("gpt2"), given)
