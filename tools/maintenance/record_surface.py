"""Record the public names and signatures of an installed package as JSON, without its code.

Run with the Python of the environment that has the package: ``python record_surface.py coreai_opt > surface.json``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from enum import Enum
from types import ModuleType
from typing import Any

Record = dict[str, Any]


def main() -> None:
    """Print the record of the package that is named on the command line."""
    warnings.simplefilter("ignore")
    record = surface(sys.argv[1])
    print(json.dumps(record, sort_keys=True).replace('}, "', '},\n"'))


def surface(package: str) -> Record:
    """Return the version of `package`, and its public names by public module.

    A package offers what its ``__all__`` lists, another module what it defines.
    """
    top = importlib.import_module(package)
    names = [package, *(info.name for info in pkgutil.walk_packages(top.__path__, f"{package}."))]
    public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
    modules = {name: importlib.import_module(name) for name in public}
    found = {name: _names(module, package) for name, module in modules.items()}
    for module, offered in found.items():  # what another public module describes, is only named
        for name, record in offered.items():
            if record["home"] != module and name in found.get(record["home"], {}):
                offered[name] = {"home": record["home"]}
    return {"version": getattr(top, "__version__", ""), "modules": found}


def _names(module: ModuleType, package: str) -> Record:
    if hasattr(module, "__path__"):
        offered = [name for name in getattr(module, "__all__", []) if not name.startswith("_")]
    else:
        own = {name: value for name, value in vars(module).items() if not name.startswith("_") and callable(value)}
        offered = [name for name, value in own.items() if getattr(value, "__module__", "") == module.__name__]
    values = {name: getattr(module, name) for name in offered}
    return {
        name: _described(value, package)
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and "[" not in name
    }


def _described(value: Any, package: str) -> Record:
    record: Record = {"home": value.__module__}
    if not inspect.isclass(value):
        return record | {"kind": "function", "parameters": parameters_of(value)}
    if issubclass(value, Enum):
        return record | {"kind": "enum", "values": {member.name: member.value for member in value}}
    return record | {"kind": "class", "parameters": parameters_of(value), "members": _members(value, package)}


def _members(cls: type, package: str) -> Record:
    """Return the public attributes that the package's own classes define, with the parameters of methods."""
    owners = [owner for owner in cls.__mro__ if owner.__module__.partition(".")[0] == package]
    names = {name for owner in owners for name in (*vars(owner), *getattr(owner, "model_fields", ()))}
    public = sorted(name for name in names if not name.startswith("_") and not name.startswith("model_"))
    return {name: parameters_of(member) if callable(member := getattr(cls, name, None)) else None for name in public}


def parameters_of(function: Any) -> list[str] | None:
    """Return the names of parameters, those with defaults with ``=``, without `self`; None if unknown."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        f"{marks.get(each.kind, '')}{each.name}{'' if each.default is each.empty else '='}"
        for each in found
        if each.name not in ("self", "cls")
    ]


if __name__ == "__main__":
    main()
