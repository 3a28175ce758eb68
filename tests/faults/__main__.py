"""``python -m tests.faults``: kill work of every kind at random times, and see what the next run makes of it.

python -m tests.faults --count 250
python -m tests.faults --job tune --count 20 --seed 3
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a child that is forked cannot use its parent's threads


def main() -> int:
    """Run, print a table, and return 1 if anything went wrong."""
    import mechsteer as ms
    from tests.faults.campaign import campaign
    from tests.faults.jobs import JOBS, SHARE
    from tests.tiny import write_checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=250, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--job", action="append", choices=list(JOBS), help="only this kind; may be given again")
    asked = parser.parse_args()
    names = asked.job or list(JOBS)
    wrong = kills = 0
    shares = {name: SHARE.get(name, 1.0) for name in names}
    with tempfile.TemporaryDirectory(prefix="mechsteer-faults-") as folder:
        model = ms.load(write_checkpoint("llama-gqa", Path(folder) / "checkpoint"))
        for name in names:
            began, each = time.monotonic(), math.ceil(asked.count * shares[name] / sum(shares.values()))
            outcome = campaign(JOBS[name](model), Path(folder) / name, each, asked.seed)
            print(
                f"{name:9} {outcome.kills} kills ({outcome.finished} came too late), "
                f"{len(outcome.wrong)} wrong  {time.monotonic() - began:.0f} s"
            )
            for line in outcome.wrong[:10]:
                print(f"    {line}", flush=True)
            kills, wrong = kills + outcome.kills, wrong + len(outcome.wrong)
            errors = [path.read_text() for path in sorted((Path(folder) / name).glob("*.err")) if path.stat().st_size]
            if outcome.wrong and errors:
                print(errors[0][-2000:])
    print(f"{kills} kills, {wrong} wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
