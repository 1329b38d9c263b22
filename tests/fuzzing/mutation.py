"""Mutations of valid files: by bytes, by tokens of text, by values of JSON, by parts of archives and of protobuf
messages.

Every mutation is drawn from a `random.Random`, so that a case is reproduced from its seed.
"""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import yaml

from tests.fuzzing.wire import EXTREMES, decode, encode, mutate_message

NUMBERS = (
    *("0", "-1", "1", "3", "127", "128", "256", "65536", "2147483647", "2147483648", "-2147483649"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "9" * 400),
    *("0.5", "-0.0", "1e308", "1e-320", "1e400", "nan", "inf", "-inf", "NaN", "Infinity", "true", "null", "0x10"),
)
STRINGS = ("", "\0", "\ud800", "a" * 3000, "../../outside", "é", "\u202e", '"', "\\", "%s{}", "\n", "__class__")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(*STRINGS, [], {}, [[]], [None], {"": None}, [0] * 300, {"a": {"b": []}}),
)
TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[0-9][0-9.e+-]*|[\w.]+|\s+|.', re.DOTALL)
TOKEN_MUTATIONS = ("remove", "span", "repeat", "exchange", "copy", "same kind", "extreme", "lines", "nest", "cut")
OPENING = "([{<"

Files = Mapping[str, bytes]


def mutate_files(random: Random, files: Files) -> dict[str, bytes]:
    """Return a copy of a folder's files, one of them mutated, or rarely removed, emptied or swapped."""
    changed = dict(files)
    name = random.choice(sorted(files))
    kind = random.random()
    if len(files) > 1 and kind < 0.03:
        del changed[name]
    elif len(files) > 1 and kind < 0.06:
        changed[name] = files[random.choice(sorted(files))]
    else:
        changed[name] = mutate_file(random, name, files[name])
    return changed


def mutate_file(random: Random, name: str, data: bytes) -> bytes:
    """Return the content of the file `name` with one to three mutations that fit its format."""
    suffix = name.rpartition(".")[2]
    ways = WAYS.get(suffix, (mutate_bytes,))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        way = random.choice(ways) if random.random() < 0.9 else mutate_bytes
        data = way(random, data)
    return data


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Flip a bit, or overwrite, remove, repeat, insert or cut some bytes."""
    if not data:
        return random.randbytes(4)
    at = random.randrange(len(data))
    end = min(len(data), at + random.choice((1, 2, 4, 8, 16, 100)))
    kind = random.choice(("flip", "overwrite", "number", "remove", "repeat", "insert", "cut"))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
    if kind == "overwrite":
        return data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))]) * (end - at) + data[end:]
    if kind == "number":
        number = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data)))
        written = struct.pack("<Q", number)[: random.choice((4, 8))]
        return data[:at] + written + data[at + len(written) :]
    if kind == "remove":
        return data[:at] + data[end:]
    if kind == "repeat":
        return data[:end] + data[at:end] * random.choice((1, 2, 100)) + data[end:]
    if kind == "insert":
        return data[:at] + random.randbytes(random.choice((1, 4, 16))) + data[at:]
    return data[:at]


def mutate_text(random: Random, data: bytes) -> bytes:
    """Remove, repeat, exchange or replace tokens or lines of text, or nest it deeply."""
    tokens = TOKEN.findall(data.decode(errors="surrogateescape"))
    if not tokens:
        return mutate_bytes(random, data)
    solid = [index for index, token in enumerate(tokens) if not token.isspace()] or [0]
    at, other = random.choice(solid), random.choice(solid)
    kind = random.choice(TOKEN_MUTATIONS)
    if kind == "remove":
        tokens[at] = ""
    elif kind == "span":
        del tokens[at : at + random.randint(1, 12)]
    elif kind == "repeat":
        tokens[at] *= random.choice((2, 2, 3, 50))
    elif kind == "exchange":
        tokens[at], tokens[other] = tokens[other], tokens[at]
    elif kind == "copy":
        tokens[at] = tokens[other]
    elif kind == "same kind":
        alike = [token for index in solid if _kind(token := tokens[index]) == _kind(tokens[at])]
        tokens[at] = random.choice(alike)
    elif kind == "extreme":
        tokens[at] = _extreme(random, tokens[at])
    elif kind == "nest":
        tokens[at] = random.choice((*OPENING, tokens[at])) * random.choice((2, 40, 600))
    elif kind == "cut":
        del tokens[at:]
    else:
        return _mutate_lines(random, "".join(tokens)).encode(errors="surrogatepass")
    return "".join(tokens).encode(errors="surrogatepass")


def _kind(token: str) -> str:
    return '"' if token[0] == '"' else "0" if token[0].isdigit() else "a" if token[0].isalpha() else token


def _extreme(random: Random, token: str) -> str:
    if token[0] == '"':
        return json.dumps(random.choice(STRINGS), ensure_ascii=random.random() < 0.5)
    return random.choice(NUMBERS) if token[0].isdigit() or random.random() < 0.5 else random.choice(STRINGS)


def _mutate_lines(random: Random, text: str) -> str:
    lines = text.split("\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.choice(("remove", "repeat", "exchange", "move"))
    if kind == "remove":
        del lines[at]
    elif kind == "repeat":
        lines.insert(other, lines[at])
    elif kind == "exchange":
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines.insert(other, lines.pop(at))
    return "\n".join(lines)


def mutate_value(random: Random, value: Any) -> Any:
    """Return plain data with one value retyped, removed, repeated, moved, renamed, or replaced by one of its type."""
    places = list(_places(value))
    if not places:
        return random.choice(VALUES)
    owner, key = random.choice(places)
    kind = random.choice(("retype", "retype", "alike", "alike", "remove", "repeat", "move", "wrap"))
    if kind == "retype":
        owner[key] = random.choice(VALUES)
    elif kind == "alike":
        alike = [source[index] for source, index in places if type(source[index]) is type(owner[key])]
        owner[key] = json.loads(json.dumps(random.choice(alike)))
        if type(owner[key]) is int and random.random() < 0.5:
            owner[key] += random.choice((-1, 1, 2**32, -(2**32)))
    elif kind == "remove":
        del owner[key]
    elif kind == "repeat" and isinstance(owner, list):
        owner[key:key] = [owner[key]] * random.choice((1, 2, 30))
    elif kind == "repeat":
        owner[random.choice(STRINGS)] = owner.pop(key)
    elif kind == "move":
        source, index = random.choice(places)
        owner[key] = json.loads(json.dumps(source[index]))
    else:
        for _ in range(random.choice((1, 2, 30))):
            owner[key] = random.choice(([owner[key]], {"a": owner[key]}))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of plain data, as a container and a key or index in it."""
    places, waiting = [], [value]
    while waiting:
        owner = waiting.pop()
        keys = list(owner) if isinstance(owner, dict) else range(len(owner)) if isinstance(owner, list) else ()
        places += [(owner, key) for key in keys]
        waiting += [owner[key] for key in keys]
    return places


def mutate_json(random: Random, data: bytes) -> bytes:
    """Mutate a value of a JSON file; its bytes where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(random, data)
    return json.dumps(mutate_value(random, value), indent=random.choice((None, 1))).encode()


def mutate_yaml(random: Random, data: bytes) -> bytes:
    """Mutate a value of a YAML file; its tokens where it is none."""
    try:
        value = yaml.safe_load(data)
        return yaml.safe_dump(mutate_value(random, value), allow_unicode=True).encode(errors="surrogatepass")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return mutate_text(random, data)


def mutate_safetensors(random: Random, data: bytes) -> bytes:
    """Mutate the JSON header of a safetensors file, with its new length before it."""
    if len(data) < 8:
        return mutate_bytes(random, data)
    length = min(struct.unpack("<Q", data[:8])[0], len(data))
    header = mutate_json(random, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutate_zip(random: Random, data: bytes) -> bytes:
    """Mutate, remove, rename or repeat an entry of a ZIP archive, whose checksums are made anew."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, ValueError, RuntimeError, EOFError):
        return mutate_bytes(random, data)
    if not entries:
        return mutate_bytes(random, data)
    heaviest = max(range(len(entries)), key=lambda index: entries[index][0].endswith(".json") * len(entries[index][1]))
    at = heaviest if random.random() < 0.6 else random.randrange(len(entries))
    name, content = entries[at]
    kind = random.random()
    if kind < 0.05:
        del entries[at]
    elif kind < 0.1:
        entries[at] = (f"{name}{random.choice(('x', '/../y', '/z'))}", content)
    elif kind < 0.13:
        entries[at] = (name, random.choice(entries)[1])
    elif kind < 0.16:
        entries.insert(random.randrange(len(entries)), (name, mutate_file(random, name, content)))
    else:
        entries[at] = (name, mutate_file(random, name, content))
    way = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, way)
    return made.getvalue()


def mutate_protobuf(random: Random, data: bytes) -> bytes:
    """Mutate a field of a protobuf message."""
    try:
        fields = decode(data)
        mutate_message(random, fields, tuple(text.encode(errors="surrogatepass") for text in STRINGS))
        return encode(fields)
    except (ValueError, RecursionError):
        return mutate_bytes(random, data)


def mutate_words(random: Random, data: bytes) -> bytes:
    """Write an extreme number over an aligned word of binary data, which is likely to be an offset or a size."""
    if len(data) < 8:
        return mutate_bytes(random, data)
    start = 64 * random.randrange(-(-len(data) // 64)) if random.random() < 0.8 else 0  # records start at such places
    at = min(start + 8 * random.randrange(8), len(data) - 8)
    number = random.choice((*EXTREMES, len(data), len(data) - at, start))
    return data[:at] + struct.pack("<Q", number) + data[at + 8 :]


Way = Callable[[Random, bytes], bytes]
WAYS: Mapping[str, tuple[Way, ...]] = {
    "gir": (mutate_text,),
    "txt": (mutate_text,),
    "yaml": (mutate_text, mutate_yaml),
    "json": (mutate_json, mutate_json, mutate_text),
    "safetensors": (mutate_safetensors, mutate_bytes),
    "pt2": (mutate_zip,),
    "pt": (mutate_zip,),
    "mlmodel": (mutate_protobuf,),
    "bin": (mutate_words, mutate_bytes),
}
"""Mutations by the suffix of a file; the bytes of any other file are mutated."""
