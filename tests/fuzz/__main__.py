"""``python -m tests.fuzz``: read many bad files of every kind, and say what came of them.

python -m tests.fuzz --count 100000             all kinds, as many files of each
python -m tests.fuzz --kind "store manifest" --count 2000 --seed 7
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> int:
    """Run, print a table, and return 1 if anything went wrong."""
    from transformers.utils import logging

    from tests.fuzz.campaign import GOOD, Bench, campaign
    from tests.fuzz.kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0, help="where to begin")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind; may be given again")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = [KINDS[name] for name in asked.kind or KINDS]
    each = -(-asked.count // len(kinds))
    wrong, width = 0, max(len(kind.name) for kind in kinds)
    with tempfile.TemporaryDirectory(prefix="mechsteer-fuzz-") as folder:
        for place, kind in enumerate(kinds):
            began = time.monotonic()
            outcome = campaign(Bench.of(kind, Path(folder) / str(place)), range(asked.seed, asked.seed + each))
            bad = {name: count for name, count in outcome.counts.items() if name not in GOOD}
            good = ", ".join(f"{outcome.counts[name]:,} {name}" for name in GOOD)
            took = time.monotonic() - began
            print(f"{kind.name:{width}}  {each:,} files, {good}, {bad or 'nothing else'}  {took:.0f} s")
            for seed, what in outcome.bad[:20]:
                print(f"    {seed}: {what}", flush=True)
            wrong += len(outcome.bad)
    print(f"{each * len(kinds):,} files, {wrong:,} wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
