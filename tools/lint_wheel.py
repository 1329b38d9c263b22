"""Check types and import directions on the built wheel, where folders lie as packages.

The repository's folders are packages by name only (`ir/` is `graphpress.ir`), and tools that find code by folder do
not know that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build the wheel, unpack it, run the type checker and the import linter in it; the worst exit code."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
        subprocess.run([*build, str(ROOT)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        unpacked = Path(folder) / "unpacked"
        zipfile.ZipFile(wheel).extractall(unpacked)
        config = str(ROOT / "pyproject.toml")
        checks = (
            [sys.executable, "-m", "mypy", "--config-file", config, "graphpress"],
            [str(Path(sys.executable).with_name("lint-imports")), "--config", config],
        )
        return max(subprocess.run(check, cwd=unpacked, check=False).returncode for check in checks)


if __name__ == "__main__":
    sys.exit(main())
