"""The part of ``steering.py`` that runs in the environment of repeng and steering-vectors: no mechsteer here.

Arguments: checkpoint folder, rounds, threads. The last line of the output is a JSON list of seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

BATCH, PROMPT, NEW, LAYER, VOCAB, WIDTH = 8, 40, 64, 3, 32128, 512


def generate(model: Any, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )


def contestants(folder: str) -> dict[str, Callable[[], None]]:
    from repeng import ControlModel, ControlVector
    from steering_vectors import SteeringVector

    tokens = torch.randint(3, VOCAB, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    vector = 4 * vector / vector.norm()
    other = SteeringVector(layer_activations={LAYER: vector})
    controlled = ControlModel(AutoModelForCausalLM.from_pretrained(folder).eval(), [LAYER])
    controlled.set_control(ControlVector("llama", {LAYER: vector.numpy()}), 1.0)

    def steering_vectors() -> None:
        with other.apply(plain):
            generate(plain, tokens)

    return {
        "Hugging Face, unsteered": lambda: generate(plain, tokens),
        "repeng, one layer": lambda: generate(controlled, tokens),
        "steering-vectors, one layer": steering_vectors,
    }


def main(folder: str, rounds: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    runs = contestants(folder)
    for run in runs.values():
        run()
    rows = []
    for number in range(int(rounds)):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            rows.append({"round": number, "contestant": name, "seconds": time.perf_counter() - began})
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
