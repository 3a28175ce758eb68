"""The plan of a study against what it then takes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mechsteer as ms
from mechsteer.models import plan
from tests.command_line import CommandLine

ROOT = Path(__file__).resolve().parents[2]
ROWS, LENGTH, NEW = 8, 384, 3


def wide_llama(folder: Path) -> str:
    """A model whose tensors are large beside what else a process takes."""
    import transformers as t

    from tests.tiny import tokenizer

    config = t.LlamaConfig(
        vocab_size=8000, hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    t.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(seq2seq=False).save_pretrained(folder)
    return str(folder)


def megabytes(field: str) -> float:
    """Of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def measure(folder: str) -> tuple[float, float]:
    """What the plan says beyond the weights, and what generating took; only a process of its own has no free memory."""
    model = ms.load(wide_llama(Path(folder)), check=False)
    table = plan(model, prompts=ROWS, length=LENGTH, new_tokens=NEW, batch_size=ROWS).set_index("part")["megabytes"]
    assert table["weights"] == pytest.approx(sum(p.numel() for p in model.parameters()) * 4e-6, rel=0.02)
    tokens = torch.randint(4, 90, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    lengths = [LENGTH - 5 * (row % 2) for row in range(ROWS)]  # so that there is padding
    prompts = [ms.Prompt("", row[:n], {}) for row, n in zip(tokens, lengths, strict=True)]
    ms.generate(model, prompts[:1], max_new_tokens=2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = megabytes("VmRSS")
    ms.generate(model, prompts, max_new_tokens=NEW)
    return float(table["total"] - table["weights"]), megabytes("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_memory_is_within_a_quarter_of_what_is_measured(tmp_path: Path) -> None:
    code = f"from tests.models.test_planning import measure; print(*measure({str(tmp_path)!r}))"
    # Tensors in mappings of their own go back to the system when they are freed, so that none is used again uncounted.
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=own)
    planned, taken = map(float, done.stdout.split())
    assert taken == pytest.approx(planned, rel=0.25)


@pytest.mark.parametrize("family", ["gemma2", "t5"])
def test_everything_grows_with_the_study(family: str, tiny: Callable) -> None:
    model = tiny(family)
    small, large = (
        plan(model, prompts=n, length=8 * n, new_tokens=2 * n, batch_size=n).set_index("part") for n in (2, 8)
    )
    assert (large["megabytes"].drop("weights") > 3 * small["megabytes"].drop("weights")).drop("total").all()
    assert large.loc["weights", "megabytes"] == small.loc["weights", "megabytes"]
    assert small["seconds"].dropna().gt(0).all()


def test_time_is_by_batches(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechsteer.models.planning._times", lambda *sizes: (3.0, 0.5))
    table = plan(tiny("gpt2"), prompts=40, length=8, new_tokens=11, batch_size=16).set_index("part")["seconds"]
    assert table["prompt pass"] == 7.5 and table["new tokens"] == 12.5 and table["total"] == 20.0


def test_bad_numbers(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="prompts must be"):
        plan(tiny("gpt2"), prompts=0)
    with pytest.raises(ms.MechsteerError, match=r"120 and 20 positions do not fit.*128"):
        plan(tiny("gpt2"), length=120, new_tokens=20)


def test_command(mechsteer: CommandLine) -> None:
    code, out, _ = mechsteer(
        "inspect", "organism:trap-t5", "--plan", "--prompts", 4, "--length", 16, "--new-tokens", 4, "--batch-size", 2
    )
    assert code == 0 and "4 prompts of 16 tokens" in out and "total" in out
