"""Compare the public surface of graphpress with a recorded one of coreai-opt.

``python -m graphpress.tools.maintenance.surface`` rewrites the generated parts of `docs/coming-from-coreai-opt.md`. The
record, `tests/graphpress/peer_surface.json`, is made by `record_surface.py` in an environment that has coreai-opt.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from graphpress.tools.maintenance import clients
from graphpress.tools.maintenance.record_surface import parameters_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coming-from-coreai-opt.md"
RECORD = ROOT / "tests" / "graphpress" / "peer_surface.json"


# Why graphpress lacks a name, parameter or attribute: the first pattern that matches all of "name item".
REASONS: tuple[tuple[str, str], ...] = (
    (r"inspection\.bits_per_weight .*", "A module of that name would hide the function; import it from `inspection`."),
    (
        r".*(ValidationMixin|SimulatorBase|FactoryBase|TrainingStrategy)( .*)?",
        "A base of coreai-opt's own classes, or a factory of them; here a spec names components by key or class.",
    ),
    (
        r".* \.(REGISTRY|get_class|list_registry_keys|list_registry_values|register|resolve|maybe_build_from_dict)",
        "Components are registered in one registry for each role (`graphpress.passes.config.components`); "
        "granularities, schemes and schedules are closed sets.",
    ),
    (
        r".* \.(apply_defaults|get_default_\w+|validate_\w+|convert_\w+|build_module_config_dict|quant_input_idx|"
        r"get_extra_args|get_n_bits_from_dtype|get_quant_range|get_target_dtype|resolve_scale_dtype|SUPPORTED_DTYPES|"
        r"get_op_type_resolver|validate|construct_partial|create_fake_quantizer_partial|"
        r"reconstruct_partial_qparams_calculator)",
        "A step of coreai-opt's own validation and resolution of configs; here constructors validate.",
    ),
    (r"config\.compression_config\.(Module|Op)CompressionConfig .*", "Abstract here: the configs have the fields."),
    (
        r".*(QParamsCalculator\w*|RunningRangeMixin|RangeCalculator\w*|FakeQuantizeImplBase|PruneImplBase)( .*)?",
        "Custom components follow graphpress's interface: a calculator takes the spec and the size of a block, see "
        "`docs/extending.md`.",
    ),
    (
        r".*Granularity (\.get_block_size|\.get_blocks_to_cluster|\.num_blocks_to_cluster|\.axis|axis)",
        "`block_shape` and `scale_shape` tell the blocks of a granularity; the base has no axis.",
    ),
    (r".*PruningScheme (\.axis|axis)", "The base of schemes has no axis."),
    (r".*Spec \.build_strategy", "A training strategy is a spec only; graphpress trains by it."),
    (r".*CoreMLExportError .*", "The error says what Core ML cannot hold; there is nothing to build it from."),
    (r".*InvalidExecutionModeError .*", "The error is one of configs, with a path."),
    (
        r".*MagnitudePruner \.calibration_mode",
        "Pruning by magnitude has nothing to calibrate; coreai-opt refuses, too.",
    ),
)


@frozen
class Row:
    """A public name of coreai-opt beside that of graphpress.

    Attributes:
        name: the qualified name, without the package.
        kind: ``class``, ``function``, ``enum`` or ``module``.
        signature: the parameters in coreai-opt.
        lacking: what graphpress does not have: the name itself, parameters, attributes or values.
        more: the parameters that graphpress has in addition.
    """

    name: str
    kind: str
    signature: str
    lacking: tuple[str, ...]
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = [f"`{self.name}`", self.kind, f"`{self.signature}`" if self.signature else ""]
        cells += [", ".join(f"`{each}`" for each in part) for part in (self.lacking, self.more)]
        numbers = sorted({reason_for(self.name, item) for item in self.lacking} - {0})
        return f"| {' | '.join([*cells, ', '.join(map(str, numbers))])} |"


def reason_for(name: str, lacking: str) -> int:
    """Return the number of the reason why `lacking` is not in graphpress, from 1; 0 if there is none."""
    subject = f"{name} {lacking}"
    found = (number for number, (pattern, _) in enumerate(REASONS, 1) if re.fullmatch(pattern, subject))
    return next(found, 0)


def rows(record: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for every recorded module that cannot be imported, and one for every name where it is defined.

    Call it in a process in which `graphpress.install_as_coreai_opt` has run.
    """
    for path, names in sorted(record["modules"].items()):
        short = path.partition(".")[2]
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError:
            yield Row(short, "module", "", (path,))
            continue
        for name, entry in sorted(names.items()):
            if entry["home"] == path or "kind" in entry:
                yield _row(f"{short}.{name}" if short else name, name, module, entry)
            elif not hasattr(module, name):
                yield Row(f"{short}.{name}" if short else name, "export", "", (name,))


def _row(qualified: str, name: str, module: ModuleType, entry: Mapping[str, Any]) -> Row:
    kind = entry["kind"]
    theirs = entry.get("parameters") or []
    signature = f"({', '.join(theirs)})" if kind != "enum" else ", ".join(entry["values"])
    ours = getattr(module, name, None)
    if ours is None:
        return Row(qualified, kind, signature, (name,))
    if kind == "enum":
        values = {member.name: member.value for member in ours} if issubclass(ours, Enum) else {}
        return Row(qualified, kind, signature, tuple(each for each in entry["values"] if each not in values))
    lacking, more = _difference(theirs, parameters_of(ours) or [], getattr(ours, "empty_arguments", frozenset()))
    found = [f"{each}" for each in lacking]
    for member, parameters in entry.get("members", {}).items():
        attribute = getattr(ours, member, None)
        if not hasattr(ours, member) and member not in _fields(ours):
            found.append(f".{member}")
        elif parameters is not None and callable(attribute):
            missing, _ = _difference(parameters, parameters_of(attribute) or [])
            found += [f".{member}({each})" for each in missing]
    return Row(qualified, kind, signature, tuple(found), tuple(more))


def _fields(cls: Any) -> set[str]:
    """Return the names of the instance attributes of an attrs class or of a class with annotations."""
    annotated = {name for owner in getattr(cls, "__mro__", ()) for name in getattr(owner, "__annotations__", {})}
    return annotated | {each.alias or each.name for each in getattr(cls, "__attrs_attrs__", ())}


def _difference(theirs: list[str], ours: list[str], empty: frozenset[str] = frozenset()) -> tuple[list[str], list[str]]:
    """Return the parameters that only they have, and those that only we have; `empty` ones are accepted, too."""

    def plain(parameter: str) -> str:
        return parameter.rstrip("=")

    named = {plain(parameter) for parameter in ours}
    named |= empty
    catches_all = any(parameter.startswith("**") for parameter in ours)
    missing = [plain(each) for each in theirs if plain(each) not in named and not each.startswith("*")]
    known = {plain(each) for each in theirs}
    more = [plain(each) for each in ours if plain(each) not in known and not each.startswith("*")]
    return ([] if catches_all else missing), more


def table(found: list[Row], version: str) -> str:
    """Return the generated part of the page."""
    differing = [row for row in found if row.lacking]
    same = sum(not row.lacking for row in found)
    head = [
        "| name in coreai-opt | kind | there | not in graphpress | more in graphpress | why |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [
            f"Of {len(found)} public names and modules of coreai-opt {version}, {same} are found under the alias with "
            f"every parameter and attribute; {len(differing)} lack something:",
            "",
            *head,
            *map(str, differing),
            "",
            "Why:",
            "",
            *(f"{number}. {reason}" for number, (_, reason) in enumerate(REASONS, 1)),
            "",
            "The others:",
            "",
            *head,
            *(str(row) for row in found if not row.lacking),
        ]
    )


def compared() -> str:
    """Compare in a process of its own, in which the alias is installed, and return the table."""
    code = (
        "import graphpress; graphpress.install_as_coreai_opt()\n"
        "from graphpress.tools.maintenance import surface\n"
        "surface.main_of_process()"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


def main_of_process() -> None:
    """Print the table of this process, in which the alias is installed."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    print(table(list(rows(record)), record["version"]))


def page_with(generated: str) -> str:
    """Return the page with `generated` and the list of client tests between their marks."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in (("surface", generated), ("clients", clients.section())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with(compared()), encoding="utf-8")
