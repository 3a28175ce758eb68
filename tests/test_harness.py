"""The bridge to lm-eval: the numbers of its own Hugging Face model, tasks from files, and interventions that act."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import mechsteer as ms

pytest.importorskip("lm_eval")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PAIRS = [
    ("the cat sat on", " the mat"),
    ("the cat sat on", " a dog in house"),
    ("", "a dog sat"),
    ("write a quote ", "in capitals"),
    ("one two red", " blue"),
    ("the cat sat on a dog " * 40, " the mat"),  # longer than the context
    ("the cat sat on a dog " * 40, " red"),
]


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def bridge(model: Any, **options: Any) -> Any:
    from mechsteer.harness import SteeredLM

    return SteeredLM(model, progress=False, **options)


def theirs(path: Path, *, bos: bool = True) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1, add_bos_token=bos)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_scores_are_those_of_lm_evals_own_model(family: str, checkpoint: Callable, tiny: Callable) -> None:
    wanted = theirs(checkpoint(family)).loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for batch_size in (1, 8):
        found = bridge(tiny(family), batch_size=batch_size).loglikelihood(requests("loglikelihood", PAIRS))
        assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=2e-4)
        assert [flag for _, flag in found] == [bool(flag) for _, flag in wanted]


def test_an_encoder_decoder_reads_the_context_as_its_tokenizer_ends_it(tiny: Callable) -> None:
    # lm-eval's own model leaves out the </s> that T5 was trained with, so that its numbers are others.
    model, pairs = tiny("t5-gated"), [pair for pair in PAIRS if pair[0]]
    found = bridge(model).loglikelihood(requests("loglikelihood", pairs))
    wanted = ms.score(model, [context for context, _ in pairs], [text for _, text in pairs])
    assert [score for score, _ in found] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_the_greedy_answer_is_said_to_be_greedy(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    said = ms.generate(model, "the cat sat on", max_new_tokens=3).texts[0]
    found = bridge(model).loglikelihood(
        requests("loglikelihood", [("the cat sat on", " " + said), ("the cat sat on", " dog")])
    )
    assert [flag for _, flag in found] == [True, False]


@pytest.mark.parametrize("length", [5, 300])
def test_whole_texts_are_scored_in_windows(length: int, checkpoint: Callable, tiny: Callable) -> None:
    text = " ".join(["the", "cat", "sat", "on", "a", "mat"][i % 5] for i in range(length))  # the context has 128
    other = theirs(checkpoint("llama-gqa"), bos=False)  # or it would put two start tokens there
    wanted = other.loglikelihood_rolling(requests("r", [(text,)]), True)
    found = bridge(tiny("llama-gqa")).loglikelihood_rolling(requests("r", [(text,)]))
    assert found == pytest.approx(wanted, abs=length * 1e-4)


def test_generation_stops_at_the_tasks_texts_and_length(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    free = ms.generate(model, ["the cat", "a dog"], max_new_tokens=9).texts
    word = free[0].split()[2]
    asked = [("the cat", {"until": [word], "max_gen_toks": 9}), ("a dog", {"max_gen_toks": 9, "do_sample": False})]
    assert bridge(model).generate_until(requests("generate_until", asked)) == [free[0].split(word)[0], free[1]]


def test_a_task_that_samples_is_sampled_with_the_seed(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    asked = requests("generate_until", [("the cat", {"temperature": 2.0, "max_gen_toks": 8})])
    drawn = [bridge(model, seed=seed).generate_until(asked) for seed in (0, 0, 1)]
    wanted = ms.generate(model, ["the cat"], strategy=ms.Sample(temperature=2.0, seed=0), max_new_tokens=8).texts
    assert drawn[0] == drawn[1] == wanted and drawn[2] != wanted


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_beams", 4),
        ("repetition_penalty", 5.0),
        ("no_repeat_ngram_size", 2),
        ("max_length", 9),
        ("temprature", 2.0),
        ("max_gen_toks", 0),
        ("until", [3]),
        ("temperature", float("nan")),
    ],
)
def test_an_option_that_generation_does_not_have_is_named(tiny: Callable, option: str, value: Any) -> None:
    asked = requests("generate_until", [("the cat", {"max_gen_toks": 3}), ("a dog", {option: value})])
    lm = bridge(tiny("llama-gqa"))
    with mock.patch("mechsteer.harness.generate") as generated, pytest.raises(ms.MechsteerError, match=option):
        lm.generate_until(asked)
    assert not generated.called


def test_options_that_change_nothing_are_accepted(tiny: Callable) -> None:
    lm = bridge(tiny("llama-gqa"))
    neutral = {"num_beams": 1, "repetition_penalty": 1.0, "top_p": None, "do_sample": False, "temperature": 0.7}
    asked = [("the cat", {"max_completion_tokens": 3}), ("the cat", {"max_gen_toks": 3, **neutral})]
    first, second = lm.generate_until(requests("generate_until", asked))
    assert first == second == ms.generate(lm.model, "the cat", max_new_tokens=3).texts[0]


def test_an_option_against_the_checkpoints_own_is_refused() -> None:
    from mechsteer.decoding.requested import check_options

    settings = {"repetition_penalty": 1.3}
    check_options({"repetition_penalty": 1.3, "max_gen_toks": 3}, settings)
    with pytest.raises(ms.MechsteerError, match=r"repetition_penalty=1.0.*has 1.3"):
        check_options({"repetition_penalty": 1.0}, settings)


def test_tags_in_a_template_say_what_is_steered(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    tagged, plain = "<!!-> answer in capitals <-!!> the cat", "answer in capitals the cat"
    steer = ms.attention_bias("instruction", 3.0)
    found = bridge(model, steer=steer).loglikelihood(requests("loglikelihood", [(tagged, " sat")]))
    prompt = ms.prompt(model, "the cat", instruction="answer in capitals", separator=" ")
    assert found[0][0] == pytest.approx(float(ms.score(model, [prompt], [" sat"], steer=steer)), abs=1e-5)
    unsteered = bridge(model).loglikelihood(requests("loglikelihood", [(tagged, " sat"), (plain, " sat")]))
    assert unsteered[0] == pytest.approx(unsteered[1]) and abs(unsteered[0][0] - found[0][0]) > 1e-3


def test_a_chat_template_does_not_double_the_start(tiny: Callable) -> None:
    model = tiny("llama-gqa", chat=True)
    lm = bridge(model)
    text = lm.apply_chat_template([{"role": "user", "content": "the cat"}])
    made, _ = lm._pair(text, " sat")
    assert made.tokens.tolist() == ms.prompt(model, "the cat").tokens.tolist()
    assert lm.chat_template(True) == model.tokenizer.chat_template and lm.chat_template(False) == ""


def test_a_context_that_is_too_long_loses_its_beginning(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    made, ids = bridge(model)._pair("<!!-> the cat <-!!> " + "dog " * 200, " mat")
    assert len(made) + len(ids) - 1 == model.cfg.n_ctx and made.tokens[-1] == ms.prompt(model, "dog").tokens[-1]
    assert "instruction" not in made.spans  # it was in what is lost
    for asked in ({"do_sample": True}, {"max_gen_toks": model.cfg.n_ctx}):
        with pytest.raises(ms.MechsteerError, match=f"leave it no room: this model's context has {model.cfg.n_ctx}"):
            bridge(model).generate_until(requests("generate_until", [("the cat", asked)]))


def test_a_task_from_a_file_runs_under_an_intervention(tiny: Callable, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    model = tiny("llama-gqa")
    none_but_this = TaskManager(include_defaults=False)  # reading the thousands that lm-eval brings takes 10 s
    rows = [{"question": "the cat sat", "choices": [" on", " in", " red"], "answer": i % 3} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    accuracies = {}
    target = ms.random_direction(model, layer=1, seed=0)
    for name, steer in {"plain": None, "steered": ms.add(target, 200.0)}.items():
        out = lm_eval.simple_evaluate(
            model=bridge(model, steer=steer),
            tasks=[ConfigurableTask(config=config)],
            task_manager=none_but_this,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
        accuracies[name] = out["results"]["tiny_choice"]["acc,none"]
        scores = ms.score(model, [rows[0]["question"]], [rows[0]["choices"]], steer=steer)[0]
        assert accuracies[name] == pytest.approx(1 / 3) and out["samples"]["tiny_choice"][0]["filtered_resps"][0][
            0
        ] == pytest.approx(float(scores[0]), abs=1e-4)
        assert [edit["strength"] for edit in out["config"]["intervention"]] == ([] if steer is None else [200.0])


def test_results_say_what_made_them(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    lm = bridge(model, steer=ms.add(ms.random_direction(model, layer=1, seed=0), 2.0), strategy=ms.DoLa())
    said = json.loads(json.dumps(lm.get_model_info()))
    assert said["model_fingerprint"] == ms.models.model_info(model).fingerprint and said["model_dtype"] == "float32"
    assert said["model_digest"] == ms.models.model_info(model).digest != ""
    assert said["model_num_parameters"] == sum(p.numel() for p in model.parameters())
    assert said["intervention"][0]["method"] == "add" and said["intervention"][0]["strength"] == 2.0
    assert "DoLa" in said["strategy"] and said["version_mechsteer"] == ms.__version__


def test_the_request_cache_keeps_models_and_interventions_apart(
    tiny: Callable, checkpoint: Callable, tmp_path: Path
) -> None:
    from lm_eval.api.model import CachingLM

    model = tiny("llama-gqa")
    direction = ms.random_direction(model, layer=1, seed=0)
    lms = [
        bridge(model, steer=ms.add(direction, 200.0)),
        bridge(model, steer=ms.add(direction, 150.0)),
        bridge(model),
        bridge(tiny("gpt2")),
        theirs(checkpoint("gpt2")),
    ]
    asked = requests("loglikelihood", [("the cat sat", " on")])
    fresh = [lm.loglikelihood(asked)[0][0] for lm in lms]
    assert len({round(score, 3) for score in fresh}) == 4  # the last two are the same model

    def cached(lm: Any) -> float:
        wrapped = CachingLM(lm, str(tmp_path / "answers.db"))
        try:
            return wrapped.loglikelihood(asked)[0][0]
        finally:
            wrapped.dbdict.close()

    assert [cached(lm) for lm in lms] == pytest.approx(fresh, abs=1e-4)
    with mock.patch("mechsteer.harness.score_ids", side_effect=AssertionError("computed again")):
        assert [cached(lm) for lm in lms[:4]] == pytest.approx(fresh[:4], abs=1e-4)


def test_the_request_cache_keeps_strategies_and_seeds_apart(tiny: Callable, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    model = tiny("llama-gqa")
    asked = requests("generate_until", [("the cat", {"temperature": 2.0, "max_gen_toks": 8})])
    lms = [bridge(model), bridge(model, strategy=ms.Greedy()), bridge(model, seed=1)]
    fresh = [lm.generate_until(asked)[0] for lm in lms]
    found = []
    for lm in lms:
        wrapped = CachingLM(lm, str(tmp_path / "answers.db"))
        found.append(wrapped.generate_until(asked)[0])
        wrapped.dbdict.close()
    assert found == fresh and len(set(fresh)) == 3


def test_what_cannot_be_asked_is_named(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="no probability under an encoder-decoder"):
        bridge(tiny("t5")).loglikelihood_rolling(requests("r", [("the cat",)]))
    with pytest.raises(ms.MechsteerError, match="has no chat template"):
        bridge(tiny("gpt2")).apply_chat_template([{"role": "user", "content": "x"}])
    with pytest.raises(ms.MechsteerError, match="has no tokens"):
        bridge(tiny("t5")).loglikelihood(requests("loglikelihood", [("the cat", "")]))
    with pytest.raises(ms.MechsteerError, match="out of range"):
        bridge(tiny("gpt2"), steer=ms.attention_bias("instruction", 1.0, layers=[9]))
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("unchecked")
def test_a_list_of_interventions_is_to_be_added_up(tiny: Callable, checkpoint: Callable) -> None:
    from mechsteer.harness import SteeredLM

    steers = [ms.attention_bias(delta=delta) for delta in (1.0, 2.0)]
    with pytest.raises(ms.MechsteerError, match=r"add up .*: a \+ b"):
        bridge(tiny("gpt2"), steer=steers)
    with pytest.raises(ms.MechsteerError, match=r"add up .*: a \+ b"):
        SteeredLM.create_from_arg_obj({"pretrained": str(checkpoint("gpt2")), "steer": steers})
