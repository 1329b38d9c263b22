"""Mutations of protobuf messages, by their wire format alone: fields, lengths, numbers and nesting.

A field is a number, a wire type and a value. What is prefixed by its length is a message where it can be read as one; a
few strings can, which does no harm. After a mutation, the lengths of all messages around it are made anew, so that a
reader gets past them to what was changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from random import Random

from attrs import define

VARINT, FIXED64, PREFIXED, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
EXTREMES = (0, 1, 2, 5, 6, 127, 128, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@define
class Field:
    """A field of a message.

    Attributes:
        number: the number of the field.
        wire: its wire type.
        value: a number, the fields of a message, or bytes.
        length: the length that is written, where it is not that of the value.
    """

    number: int
    wire: int
    value: int | bytes | Message
    length: int | None = None


Message = list[Field]


def decode(data: bytes, depth: int = 60) -> Message:
    """Return the fields of a message, and those of messages in it.

    Raises:
        ValueError: if the bytes are no message.
    """
    fields, at = Message(), 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise ValueError("a field has no number")
        value: int | bytes | Message
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire in (PREFIXED, *_SIZES):
            size, at = _varint(data, at) if wire == PREFIXED else (_SIZES[wire], at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("a field does not end")
            if wire == PREFIXED and value and depth:
                with suppress(ValueError):
                    inner = decode(value, depth - 1)
                    value = inner if encode(inner) == value else value  # text, where a number is longer than it must be
        else:
            raise ValueError(f"no wire type {wire}")
        fields.append(Field(number, wire, value))
    return fields


def encode(fields: Message) -> bytes:
    """Return the bytes of a message."""
    made = bytearray()
    for field in fields:
        made += varint(field.number << 3 | field.wire)
        value = encode(field.value) if isinstance(field.value, list) else field.value
        if isinstance(value, int):
            made += varint(value)
        else:
            if field.wire == PREFIXED:
                made += varint(len(value) if field.length is None else field.length)
            made += value
    return bytes(made)


def varint(number: int) -> bytes:
    """Return a number in groups of seven bits."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        if at + place >= len(data):
            break
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError("a number does not end")


def mutate_message(random: Random, fields: Message, strings: tuple[bytes, ...]) -> None:
    """Change one field, at any depth: its value, number, type, length or place; or remove, repeat or nest it."""
    levels: dict[int, list[tuple[Message, int]]] = {}
    for depth, owner, index in _places(fields, 0):
        levels.setdefault(depth, []).append((owner, index))
    if not levels:
        fields.append(Field(random.randint(1, 20), VARINT, random.choice(EXTREMES)))
        return
    every = [place for places in levels.values() for place in places]
    owner, index = random.choice(levels[random.choice(sorted(levels))] if random.random() < 0.5 else every)
    field = owner[index]
    kind = random.choice(("value", "value", "value", "remove", "repeat", "copy", "move", "number", "nest", "length"))
    if kind == "value":
        _mutate_value(random, field, strings)
    elif kind == "remove":
        del owner[index]
    elif kind == "repeat":
        owner[index:index] = [field] * random.choice((1, 2, 30))
    elif kind == "copy":  # in the place of another
        source, at = random.choice(every)
        owner[index] = Field(random.choice((field.number, source[at].number)), source[at].wire, _copy(source[at].value))
    elif kind == "move":
        target, at = random.choice(every)
        target.insert(at, Field(field.number, field.wire, _copy(field.value)))
    elif kind == "number":
        field.number = random.choice((*range(1, 25), 1000, 2**29 - 1))
    elif kind == "nest":
        for _ in range(random.choice((1, 2, 30, 90, 300))):
            field = owner[index] = Field(field.number, PREFIXED, [field])
    elif field.wire == PREFIXED:
        length = len(encode(field.value)) if isinstance(field.value, list) else len(bytes(field.value))
        field.length = random.choice((0, max(0, length - 1), length + 1, 2 * length, *EXTREMES))
    else:
        field.wire = random.choice((VARINT, FIXED64, FIXED32))
        field.value = random.choice(EXTREMES) if field.wire == VARINT else random.randbytes(_SIZES[field.wire])


def _mutate_value(random: Random, field: Field, strings: tuple[bytes, ...]) -> None:
    value = field.value
    if isinstance(value, int):
        near = max(0, value + random.choice((-1, 1)))
        field.value = random.choice((*EXTREMES, near, value ^ 1 << random.randrange(64)))
    elif isinstance(value, bytes) and field.wire != PREFIXED:
        field.value = random.choice((bytes(len(value)), b"\xff" * len(value), random.randbytes(len(value))))
    elif isinstance(value, bytes):
        part = value[: random.randrange(len(value))] if value else b""
        field.value = random.choice((*strings, part, value + value, value + b"\0", bytes(len(value))))
    elif random.random() < 0.5:
        random.shuffle(value)
    else:
        field.value = random.choice((b"", *strings))


def _copy(value: int | bytes | Message) -> int | bytes | Message:
    return decode(encode(value)) if isinstance(value, list) else value


def _places(fields: Message, depth: int) -> Iterator[tuple[int, Message, int]]:
    """Yield every field of a message, as its depth, the fields that it is among, and its index."""
    for index, field in enumerate(fields):
        yield depth, fields, index
        if isinstance(field.value, list):
            yield from _places(field.value, depth + 1)
