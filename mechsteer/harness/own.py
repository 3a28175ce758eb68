"""A task of one's own as a task of lm-eval."""

from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from mechsteer.errors import MechsteerError, shown
from mechsteer.tasks import OwnSample, OwnTask


def lm_eval_task(task: OwnTask) -> ConfigurableTask:
    """A task of one's own (:func:`mechsteer.task`) for ``lm_eval.simple_evaluate(tasks=[...])``, under any model.

    Its documents have the fields ``prompt`` and ``instruction``, so that a model with ``instruction="instruction"`` has
    the instruction's span. Of messages the contents are joined: lm-eval's own system text and chat template go around
    them. The metrics are the means of the check's scores, each of the samples that have it.

    Raises:
        MechsteerError: for what is no such task, or has finished prompts for samples.

    Example:
        >>> task = lm_eval_task(ms.task("own.jsonl", check="lowercase"))
        >>> lm_eval.simple_evaluate(SteeredLM(model, instruction="instruction"), tasks=[task])
    """
    if not isinstance(task, OwnTask):
        raise MechsteerError(f"lm_eval_task takes a task that ms.task made, got {shown(task)}.")
    docs = [{"number": number, **_doc(sample)} for number, sample in enumerate(task.samples)]
    # What scores there are: those of prompts, for a check may not take an empty text.
    names = dict.fromkeys(name for sample in task.samples for name in task.scores(sample, sample.text))

    def scored(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
        scores = task.scores(task.samples[doc["number"]], results[0])
        return {name: float(value) for name, value in scores.items()}

    config = {
        "task": task.name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": "",
        "process_results": scored,
        "generation_kwargs": {"until": [], "max_gen_toks": task.max_new_tokens, "do_sample": False},
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names],
    }
    return ConfigurableTask(config=config)


def _doc(sample: OwnSample) -> dict[str, Any]:
    if not isinstance(sample.asked, str | tuple):
        raise MechsteerError(f"{sample.where}: lm-eval makes prompts from texts; a finished prompt is none.")
    return {"prompt": sample.text, "instruction": sample.instructions}
