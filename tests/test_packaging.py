from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def folders_as_packages(package_dir: dict[str, str]) -> list[str]:
    """The name of every folder with an `__init__.py` under the folders that `package_dir` maps to packages."""
    return sorted(
        ".".join((package, *init.parent.relative_to(ROOT / folder).parts))
        for package, folder in package_dir.items()
        for init in (ROOT / folder).rglob("__init__.py")
    )


def test_the_wheel_contains_every_package_and_nothing_else(setuptools):
    assert setuptools["packages"] == folders_as_packages(setuptools["package-dir"])


def test_every_folder_with_modules_is_a_package(setuptools):
    loose = {
        str(module.parent.relative_to(ROOT))
        for folder in setuptools["package-dir"].values()
        for module in (ROOT / folder).rglob("*.py")
        if not (module.parent / "__init__.py").exists()
    }
    assert loose == set()


def test_the_wheel_contains_the_weights_of_the_example(setuptools):
    patterns = setuptools["package-data"]["graphpress.tools.edsr"]
    packaged = {file.name for pattern in patterns for file in (ROOT / "tools" / "edsr").glob(pattern)}
    from graphpress.tools.edsr.model import WEIGHTS_FILE

    assert Path(WEIGHTS_FILE).name in packaged


def test_every_data_file_is_declared(setuptools):
    declared = {
        file
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for file in folder_of(package, setuptools["package-dir"]).glob(pattern)
    }
    data = {
        file
        for folder in setuptools["package-dir"].values()
        for suffix in ("*.safetensors", "*.json", "*.yaml", "*.txt", "*.html", "*.css", "*.js")
        for file in (ROOT / folder).rglob(suffix)
    }
    assert data == declared


def folder_of(package: str, package_dir: dict[str, str]) -> Path:
    """The folder of `package`, by the mapped package it lies in."""
    mapped = max((name for name in package_dir if f"{package}.".startswith(f"{name}.")), key=len)
    return ROOT.joinpath(package_dir[mapped], *package[len(mapped) + 1 :].split("."))
