"""What somebody new to Shoal does, in an environment of its own: ``python -m tools.newcomer``.

A fresh virtual environment gets the wheel of ``dist/`` (``make dist``), with the extras that
``docs/getting-started.md`` installs and none besides. Then the blocks of that page run in their
order, as they are printed, in an empty folder. Prints what each took; the first that fails ends it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from time import monotonic

from tools.blocks import ROOT, Block, blocks

PAGE = ROOT / "docs" / "getting-started.md"


def wheel(dist: Path) -> Path:
    """The one wheel of a folder."""
    found = sorted(dist.glob("shoal-*.whl"))
    if len(found) != 1:
        sys.exit(f"{len(found)} wheels in {dist}: run `make dist` first")
    return found[0].resolve()


def extras(page: list[Block]) -> str:
    """Those of the page's own pip install: "[onnx]"."""
    (text,) = (block.text for block in page if "pip install" in block.text)
    found = re.search(r'pip install "shoal(\[[\w,]+\])"', text)
    return found[1] if found else ""


def timed(what: str, command: list[str], folder: Path, path: str) -> None:
    """Run a command with this PATH. Ends the program if it fails."""
    print(f"$ {what}", flush=True)
    begin = monotonic()
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=env | {"PATH": path})
    print(f"  {monotonic() - begin:.1f} s", flush=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {what}")


def follow(page: list[Block], folder: Path, path: str) -> None:
    """Do what the page says."""
    for block in page:
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.skip:
            continue
        elif block.language == "console":
            for line in block.text.replace("\\\n", " ").splitlines():
                timed(line.removeprefix("$ "), ["bash", "-c", line[2:]], folder, path)
        elif block.language == "python":
            first = block.text.strip().splitlines()[0]
            timed(f"python: {first} ...", ["python", "-c", block.text], folder, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheel")
    args = parser.parse_args()
    page, made = blocks(PAGE), wheel(args.dist)
    begin = monotonic()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        folder = Path(name, "empty")
        folder.mkdir()
        venv.create(Path(name, "venv"), with_pip=True)
        path = f"{Path(name, 'venv', 'bin')}{os.pathsep}{os.environ['PATH']}"
        asked = f"{made}{extras(page)}"
        timed(f"pip install {asked}", ["python", "-m", "pip", "install", "-q", asked], folder, path)
        installed = monotonic()
        follow(page, folder, path)
    minutes = [(installed - begin) / 60, (monotonic() - installed) / 60]
    print("installed in {:.1f} min, then {:.1f} min".format(*minutes))


if __name__ == "__main__":
    main()
