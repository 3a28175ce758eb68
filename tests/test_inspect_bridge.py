"""Inspect's provider: a task of Inspect's under an intervention, and its log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms

pytest.importorskip("inspect_ai")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Inspect's own packages

STEER = ms.attention_bias("instruction", 3.0)
ASKED = "<!!-> answer in capitals <-!!> the cat"


def inspect_task() -> Any:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes

    return Task(dataset=[Sample(ASKED, target="the"), Sample("a dog in house", target="the")], scorer=includes())


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_a_task_runs_under_an_intervention_and_its_log_is_read(
    chat: bool, steered: bool, tiny: Callable, checkpoint: Callable, tmp_path: Path
) -> None:
    from inspect_ai import eval as inspect_eval
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import get_model

    import mechsteer.inspect_bridge  # noqa: F401  # the entry point, where the package is not installed anew

    model = tiny("llama-gqa", chat=chat)
    saved = ms.add(ms.random_direction(model, layer=1, seed=0), 40.0).save(tmp_path / "steer.safetensors")
    steer = ms.Intervention.load(saved) if steered else None
    name = f"mechsteer/{checkpoint('llama-gqa', chat=chat)}"
    api = get_model(name, steer=str(saved) if steered else None)
    (log,) = inspect_eval(inspect_task(), model=api, log_dir=str(tmp_path / "logs"), display="none", max_tokens=5)
    assert log.status == "success"
    read = read_eval_log(log.location)
    texts = [sample.output.completion for sample in read.samples]
    prompts = [ms.prompt(model, [{"role": "user", "content": text}]) if chat else ms.prompt(model, text)
               for text in (ASKED, "a dog in house")]  # fmt: skip
    assert texts == [ms.generate(model, prompt, steer=steer, max_new_tokens=5).texts[0] for prompt in prompts]
    assert read.samples[0].output.usage.output_tokens == 5
    assert len(read.samples[0].output.metadata["intervention"]) == int(steered)


def test_tags_in_a_message_mark_what_is_steered(tiny: Callable) -> None:
    import asyncio

    from inspect_ai.model import ChatMessageUser, GenerateConfig

    from mechsteer.inspect_bridge.provider import SteeredAPI

    model = tiny("llama-gqa", chat=True)
    api = SteeredAPI("tiny", loaded=model, steer=STEER)
    asked = [ChatMessageUser(content=ASKED)]
    out = asyncio.run(api.generate(asked, [], "none", GenerateConfig(max_tokens=6, temperature=0.0, num_choices=1)))
    prompt = ms.prompt(model, [{"role": "user", "content": ASKED}])
    assert out.completion == ms.generate(model, prompt, steer=STEER, max_new_tokens=6).texts[0]
    drawn = [asyncio.run(api.generate(asked, [], "none", GenerateConfig(max_tokens=6, temperature=3.0, seed=s)))
             for s in (0, 0, 1)]  # fmt: skip
    assert drawn[0].completion == drawn[1].completion != drawn[2].completion
    for config, message in (
        (GenerateConfig(logprobs=True), "logprobs"),
        (GenerateConfig(num_choices=2), "num_choices"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            asyncio.run(api.generate(asked, [], "none", config))
    with pytest.raises(ms.MechsteerError, match="have no tools"):
        asyncio.run(api.generate(asked, [object()], "none", GenerateConfig()))
    with pytest.raises(ms.MechsteerError, match="'stear'"):
        SteeredAPI("tiny", loaded=model, stear="x")


@pytest.mark.usefixtures("tiny")
def test_epochs_are_drawn_anew_also_in_a_second_evaluation(checkpoint: Callable, tmp_path: Path) -> None:
    from inspect_ai import eval as inspect_eval
    from inspect_ai.log import read_eval_log
    from inspect_ai.model import get_model

    import mechsteer.inspect_bridge  # noqa: F401

    def drawn(api: Any, **config: Any) -> list[set[str]]:
        options = {"log_dir": str(tmp_path / "logs"), "display": "none", "max_tokens": 6, "temperature": 2.0}
        (log,) = inspect_eval(inspect_task(), model=api, epochs=3, **options, **config)
        assert log.status == "success"
        samples = read_eval_log(log.location).samples
        return [{one.output.completion for one in samples if one.id == number} for number in (1, 2)]

    name = f"mechsteer/{checkpoint('llama-gqa')}"
    first = get_model(name, memoize=False)
    once = drawn(first)
    assert [len(texts) for texts in once] == [3, 3]
    assert drawn(first) != once  # in another event loop
    assert drawn(get_model(name, memoize=False)) == once
    assert [len(texts) for texts in drawn(first, seed=1)] == [1, 1]


def test_what_is_no_text_is_refused_and_a_stop_at_the_last_token_is_one(tiny: Callable) -> None:
    import asyncio

    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ContentImage, ContentText, GenerateConfig
    from inspect_ai.tool import ToolCall

    from mechsteer.inspect_bridge.provider import SteeredAPI

    api = SteeredAPI("tiny", loaded=tiny("llama-gqa", chat=True))

    def answer(*messages: Any, **config: Any) -> Any:
        return asyncio.run(api.generate(list(messages), [], "none", GenerateConfig(max_tokens=4, **config)))

    asked = ChatMessageUser(content=[ContentText(text="the cat")])
    free = answer(asked)
    assert free.stop_reason == "max_tokens" and answer(ChatMessageUser(content="the cat")).completion == free.completion
    ended = answer(asked, stop_seqs=[free.completion.split()[-1]])
    assert ended.stop_reason == "stop" and ended.usage.output_tokens == 4
    picture = ChatMessageUser(content=[ContentText(text="the cat"), ContentImage(image="data:image/png;base64,AA")])
    called = ChatMessageAssistant(content="", tool_calls=[ToolCall(id="1", function="f", arguments={})])
    for messages, part in (((picture,), "user's .*: image"), ((asked, called), "assistant's .*: tool call")):
        with pytest.raises(ms.MechsteerError, match=f"The {part}"):
            answer(*messages)
    assert answer(asked, top_p=1.0).completion == answer(asked, top_p=0.5, temperature=0.0).completion
    with pytest.raises(ms.MechsteerError, match="without a temperature decoding here is greedy"):
        answer(asked, top_p=0.5)


def test_inspect_finds_the_provider_by_the_entry_point() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["inspect_ai"] == {"mechsteer": "mechsteer.inspect_bridge"}
    assert any(name.startswith("inspect-ai") for name in project["optional-dependencies"]["inspect"])
