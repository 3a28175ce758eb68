"""The bridge to lm-eval: spans from documents, system text, batch sizes, its command line, and tasks of one's own."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms

pytest.importorskip("lm_eval")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DOC = {"told": "answer in capitals", "asked": "the cat"}
CONTEXT = "answer in capitals the dog\n\nanswer in capitals the cat"
STEER = ms.attention_bias("instruction", 3.0)


def request(kind: str, context: str, rest: Any, doc: dict[str, Any] | None = None) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, doc or {}, (context, rest), 0)


def bridge(model: Any, **options: Any) -> Any:
    from mechsteer.harness import SteeredLM

    return SteeredLM(model, progress=False, **options)


def scores(lm: Any, asked: list[Any]) -> list[float]:
    return [score for score, _ in lm.loglikelihood(asked)]


@pytest.mark.parametrize(
    "instruction", ["told", lambda doc: doc["told"], lambda doc: [f" {doc['told']} "]], ids=["field", "text", "list"]
)
@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_the_document_says_where_the_instruction_is(family: str, instruction: Any, tiny: Callable) -> None:
    model = tiny(family)
    tagged = "answer in capitals the dog\n\n<!!->answer in capitals<-!!> the cat"
    asked = [request("loglikelihood", CONTEXT, " sat", DOC)]
    (found,) = scores(bridge(model, steer=STEER, instruction=instruction), asked)
    (wanted,) = scores(bridge(model, steer=STEER), [request("loglikelihood", tagged, " sat")])
    (plain,) = scores(bridge(model, instruction=instruction), asked)
    assert found == pytest.approx(wanted) and abs(found - plain) > 1e-4
    assert [plain] == pytest.approx(scores(bridge(model), asked))
    options = {"max_gen_toks": 4}
    text = bridge(model, steer=STEER, instruction=instruction).generate_until(
        [request("generate_until", CONTEXT, options, DOC)]
    )
    assert text == bridge(model, steer=STEER).generate_until([request("generate_until", tagged, options)])


def test_a_document_without_an_instruction_in_its_context_is_named(tiny: Callable) -> None:
    model = tiny("gpt2")
    for instruction, message in (
        ("tols", "no field 'tols'.*'told'"),
        (lambda doc: "in french", "'in french' of the document is not in its context"),
        (lambda doc: doc["nothing"], r"instruction= failed on the document .*KeyError\('nothing'\)"),
        (lambda doc: 3, "must be a text or a list of texts"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            bridge(model, instruction=instruction).loglikelihood([request("loglikelihood", CONTEXT, " sat", DOC)])
    nothing = bridge(model, instruction=lambda doc: None)
    assert nothing.loglikelihood([request("loglikelihood", CONTEXT, " sat", DOC)])[0][0] < 0


def test_the_requests_cache_knows_the_instruction(tiny: Callable, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    tables = set()
    for instruction in (None, "told", "asked"):
        wrapped = CachingLM(bridge(tiny("gpt2"), instruction=instruction), str(tmp_path / "answers.db"))
        tables.add(wrapped.dbdict.tablename)
        wrapped.dbdict.close()
    assert len(tables) == 3


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "t5-gated"])
@pytest.mark.parametrize("white", [" ", "\n\n"])
def test_white_space_is_a_context(family: str, white: str, tiny: Callable) -> None:
    lm = bridge(tiny(family))
    (found,) = scores(lm, [request("loglikelihood", white, "the mat")])
    assert lm.generate_until([request("generate_until", white, {"max_gen_toks": 2})])[0]
    if family != "t5-gated":  # an encoder reads the white space's tokens
        assert [found] == pytest.approx(scores(lm, [request("loglikelihood", "", f"{white}the mat")]))


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_a_tokenizer_that_ends_every_text_takes_nothing_from_a_continuation(family: str, tiny: Callable) -> None:
    from tokenizers.processors import TemplateProcessing

    model = tiny(family)
    backend, end = model.tokenizer.backend_tokenizer, model.tokenizer.eos_token
    _, wanted = bridge(model)._pair("the cat", " sat on")
    before = backend.post_processor
    ended = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, model.tokenizer.eos_token_id)])
    try:
        backend.post_processor = ended
        made, found = bridge(model)._pair("the cat", " sat on")
    finally:
        backend.post_processor = before or TemplateProcessing(single="$A", special_tokens=[])
    assert found == wanted and made.tokens[-1] == model.tokenizer.eos_token_id


def test_a_strategy_is_not_taken_for_part_of_a_log_likelihood(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    asked = [request("loglikelihood", "the cat", " sat")]
    for strategy in (None, ms.Greedy(), ms.Sample()):
        plain = scores(bridge(model, strategy=strategy), asked)
    lm = bridge(model, strategy=ms.DoLa())
    with pytest.warns(UserWarning, match=r"strategy=DoLa\(.*has no part in them"):
        assert scores(lm, asked) == plain
    with pytest.warns(UserWarning, match="has no part in them"):
        lm.loglikelihood_rolling([request("loglikelihood_rolling", "the cat", "")])


def test_contexts_that_lose_their_beginning_are_counted(tiny: Callable, caplog: pytest.LogCaptureFixture) -> None:
    lm, long = bridge(tiny("llama-gqa")), "dog " * 200
    lm.loglikelihood([request("loglikelihood", text, " sat") for text in ("the cat", long, f"a {long}")])
    lm.generate_until([request("generate_until", text, {"max_gen_toks": 2}) for text in (long, "the cat")])
    lm.generate_until([request("generate_until", "the cat", {"max_gen_toks": 2})])
    said = "longer than the 128 tokens of this model, and lose their beginning"
    assert [one.getMessage().partition(said)[2] for one in caplog.records] == [": 2.", ": 1."]


def test_batch_sizes_change_nothing(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    asked = [request("loglikelihood", text, " sat") for text in ("the cat", "a dog in house", "one two red blue")]
    wanted = scores(bridge(model, batch_size=1), asked)
    for batch_size in ("auto", "auto:4", "2", 3):
        assert scores(bridge(model, batch_size=batch_size), asked) == pytest.approx(wanted, abs=1e-4)
    assert bridge(model, batch_size="auto", max_batch_size=5).batch_size == 5
    for wrong in ("automatic", "0", 0, "many", -1):
        with pytest.raises(ms.MechsteerError, match="batch_size"):
            bridge(model, batch_size=wrong)


def test_system_text_goes_through_the_template_or_is_left_out(tiny: Callable) -> None:
    model = tiny("llama-gqa", chat=True)
    lm, own = bridge(model), model.tokenizer.chat_template
    messages = [{"role": "system", "content": "in capitals"}, {"role": "user", "content": "the cat"}]
    assert lm.apply_chat_template(messages) == model.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + own
    model.tokenizer.chat_template = refusing
    try:
        with pytest.warns(UserWarning, match=r"no system messages; theirs is left out \(no system\)"):
            left = lm.apply_chat_template(messages)
        assert left == lm.apply_chat_template(messages[1:]) and lm.chat_template(True) == refusing
        model.tokenizer.chat_template = "{{ raise_exception('nothing pleases') }}"
        with pytest.raises(ms.MechsteerError, match="refuses these messages: nothing pleases"):
            lm.apply_chat_template(messages[1:])
        assert lm.chat_template("terse") == model.tokenizer.chat_template  # the only one
        terse = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        model.tokenizer.chat_template = {"default": own, "terse": terse}
        keys = {lm.tokenizer_name}
        assert lm.chat_template("terse") == terse and lm.apply_chat_template(messages[1:]) == "the cat"
        keys.add(lm.tokenizer_name)
        assert lm.chat_template(True) == own and lm.apply_chat_template(messages) != "the cat" and len(keys) == 2
        with pytest.raises(ms.MechsteerError, match=r"Unknown chat template of this tokenizer: 'ters'.*'terse'"):
            lm.chat_template("ters")
        model.tokenizer.chat_template = {"terse": terse}
        with pytest.raises(ms.MechsteerError, match=r"'default'\. Valid: terse"):
            lm.chat_template(True)
    finally:
        model.tokenizer.chat_template = own


SAMPLES = [
    {"prompt": "the cat sat on", "instruction": "answer in capitals", "kind": "a"},
    {"prompt": "<!!-> write in capitals <-!!> a dog", "kind": "b"},
]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("steer", [None, STEER], ids=["unsteered", "steered"])
def test_a_task_of_ones_own_is_a_task_of_lm_eval(chat: bool, steer: Any, tiny: Callable) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from mechsteer.harness.own import lm_eval_task

    def check(text: str, sample: dict[str, Any]) -> dict[str, float]:
        return {"length": float(len(text)), "has_the": float("the" in text)}

    model = tiny("llama-gqa", chat=chat)
    task = ms.task(SAMPLES, check, name="mine", max_new_tokens=6)
    out = lm_eval.simple_evaluate(
        model=bridge(model, steer=steer, instruction="instruction"),
        tasks=[lm_eval_task(task)],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    wanted = ms.evaluate(model, task, steer=steer)
    answers = [sample["filtered_resps"][0] for sample in out["samples"]["mine"]]
    assert answers == wanted["output"].tolist()
    for name in ("length", "has_the"):
        assert out["results"]["mine"][f"{name},none"] == pytest.approx(wanted[name].mean())


def test_samples_may_have_other_scores_and_an_answer_may_have_to_say_something() -> None:
    from mechsteer.harness.own import lm_eval_task

    def check(text: str, sample: dict[str, Any]) -> dict[str, float]:
        return {"first": float(len(text.split()[0])), **({} if sample["n"] else {"more": 2.0})}

    made = lm_eval_task(ms.task([{"prompt": "the cat", "n": n} for n in (0, 1)], check, name="mine"))
    assert set(made.aggregation()) == {"first", "more"}
    assert made.process_results({"number": 1}, ["a dog"]) == {"first": 1.0}


def test_what_is_no_task_of_ones_own_is_refused(tiny: Callable, unchecked: None) -> None:
    from mechsteer.harness.own import lm_eval_task

    with pytest.raises(ms.MechsteerError, match=r"a task that ms\.task made"):
        lm_eval_task(ms.tasks.memotrap())
    finished = ms.task([ms.prompt(tiny("gpt2"), "the cat")], check="lowercase")
    with pytest.raises(ms.MechsteerError, match="a finished prompt is none"):
        lm_eval_task(finished)


def test_it_runs_from_lm_evals_command_line(
    checkpoint: Callable, tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    model = tiny("llama-gqa")
    steer = ms.add(ms.random_direction(model, layer=1, seed=0), 40.0)
    saved = steer.save(tmp_path / "steer.safetensors")
    rows = [{"question": "the cat sat", "choices": [" on", " in", " red"], "answer": 0}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = {"test": str(tmp_path / "rows.jsonl")}
    config = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    (tmp_path / "tiny_choice.yaml").write_text(json.dumps(config), encoding="utf-8")
    init = TaskManager.__init__  # reading the thousands of tasks that lm-eval brings takes 10 s
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *args, **more: init(self, *args, **(more | {"include_defaults": False}))
    )
    arguments = f"pretrained={checkpoint('llama-gqa')},steer={saved},progress=False"
    given = ["--model", "mechsteer", "--model_args", arguments, "--tasks", "tiny_choice", "--batch_size", "auto"]
    given += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *given, "--device", "cpu"])
    runpy.run_module("mechsteer.harness", run_name="__main__", alter_sys=False)
    (written,) = (tmp_path / "out").rglob("samples_*.jsonl")
    found = json.loads(written.read_text(encoding="utf-8").splitlines()[0])["filtered_resps"]
    wanted = ms.score(model, ["the cat sat"], [rows[0]["choices"]], steer=steer)[0]
    assert [float(one[0]) for one in found] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_the_device_that_lm_eval_takes_for_granted_is_asked_for_by_nobody(
    checkpoint: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mechsteer.harness import SteeredLM

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path, default = checkpoint("gpt2"), {"batch_size": 1, "device": "cuda:0"}
    for given, rows in ((f"pretrained={path}", 1), (f"pretrained={path},device=cpu,batch_size=8", 8)):
        lm = SteeredLM.create_from_arg_string(given, default)
        assert (str(lm.model.cfg.device), lm.batch_size) == ("cpu", rows)
    assert [one.getMessage() for one in caplog.records] == [
        "There is no CUDA device here: the model runs on the CPU, not on lm-eval's cuda:0."
    ]  # of the first; the second asked for the CPU
    with pytest.raises(ms.MechsteerError, match="Device 'cuda:1' is not available here"):
        SteeredLM.create_from_arg_string(f"pretrained={path}", {"device": "cuda:1"})


def test_the_command_line_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise ms.MechsteerError("No such file: steer.safetensors.")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mechsteer.harness", run_name="__main__", alter_sys=False)
    assert ended.value.code == 2 and capsys.readouterr().err == "mechsteer: No such file: steer.safetensors.\n"


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_strategy_or_instruction_is_refused_at_once(tiny: Callable) -> None:
    for given, options, message in (
        ("gpt2", {}, r"ms\.load\('gpt2'\)"),
        (tiny("gpt2"), {"strategy": STEER}, "An intervention is given as steer="),
        (tiny("gpt2"), {"instruction": ["told"]}, "a field of the documents or a function of one, got"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            bridge(given, **options)


def test_arguments_that_there_are_not_are_named(checkpoint: Callable, tmp_path: Path) -> None:
    from mechsteer.harness import SteeredLM

    path = checkpoint("gpt2")
    for given, message in (
        (f"pretrained={path},stear=x", "Unknown argument of the model mechsteer: 'stear'.*'steer'"),
        ("seed=1", "needs pretrained=NAME"),
        (f"pretrained={path},steer={tmp_path / 'no.safetensors'}", "No such file|not there|does not exist"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            SteeredLM.create_from_arg_string(given, {"batch_size": "auto", "device": None})
    lm = SteeredLM.create_from_arg_string(f"pretrained={path},instruction=told,seed=3", {"batch_size": 4})
    assert (lm.instruction, lm.seed, lm.batch_size, lm.steer.edits) == ("told", 3, 4, ())
