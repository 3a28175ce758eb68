"""Local models never touch the network, whatever the environment says."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = """
import socket, sys

def blocked(*args, **kwargs):
    attempts.append(args)
    raise OSError("the network is blocked")

attempts = []
socket.socket.connect = socket.socket.connect_ex = blocked
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = blocked

import mechsteer as ms
from mechsteer.directions import random_direction

out = sys.argv[1]
for name in ["organism:trap-t5", *sys.argv[2:]]:
    model = ms.load(name)
    assert ms.verify(model)["ok"].all()
    steer = ms.add(random_direction(model, seed=0, layer=0), 0.5)
    prompts = [ms.prompt(model, "one two", instruction="write capitals"), "the cat"]
    ms.generate(model, prompts, steer=steer, strategy=ms.Sample(seed=1), max_new_tokens=3)
    ms.score(model, ["the cat"], [["sat", "on"]], steer=steer)
    steer.explain(model, prompts[0])
    direction = random_direction(model, seed=1, layer=0)
    ms.Direction.load(direction.save(out + "/d.safetensors"))
assert not attempts, attempts

try:
    ms.load("no-such-org/no-such-model")
except ms.MechsteerError as error:
    assert "Cannot get 'no-such-org/no-such-model' from the Hugging Face hub" in str(error), error
else:
    raise AssertionError("a hub id was loaded without a network")
assert attempts, "the block does not see attempts"
print("done")
"""


def test_everything_on_local_models_works_without_a_network(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    environment["HF_HOME"] = str(tmp_path / "cache")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(checkpoint("llama")), str(checkpoint("t5"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
