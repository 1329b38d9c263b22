"""Messages in protobuf's wire format are read as protobuf reads them, and mutated to others that it reads."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing.mutation import mutate_protobuf
from tests.fuzzing.wire import FIXED32, FIXED64, PREFIXED, VARINT, Field, decode, encode

descriptor = pytest.importorskip("google.protobuf.descriptor_pb2")


def message() -> bytes:
    """A file that describes messages, which nest."""
    made = descriptor.FileDescriptorProto(name="a.proto", dependency=["b.proto", "c.proto"])
    for number in range(3):
        kind = made.message_type.add(name=f"M{number}")
        for place in range(4):
            kind.field.add(name=f"f{place}", number=place + 1, type=3 + place, label=1)
        kind.options.uninterpreted_option.add(double_value=0.5, positive_int_value=2**64 - 1)
    return made.SerializeToString()


def test_a_message_is_read_to_its_innermost_fields_and_written_as_it_was():
    fields = decode(message())
    assert encode(fields) == message()
    assert fields[0] == Field(1, PREFIXED, b"a.proto")
    (kind, *_) = (field for field in fields if field.number == 4)
    assert kind.value[1].value == [  # the field f0: its name, number, label and type
        Field(1, PREFIXED, b"f0"),
        Field(3, VARINT, 1),
        Field(4, VARINT, 1),
        Field(5, VARINT, 3),
    ]


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=20)), max_size=5))
def test_what_is_written_is_read(values):
    fields = []
    for number, varint, data in values:
        fields += [
            Field(number, VARINT, varint),
            Field(number, FIXED64, data[:8].ljust(8)),
            Field(number, PREFIXED, data),
        ]
        fields.append(Field(number, FIXED32, data[:4].ljust(4)))
    assert encode(decode(encode(fields))) == encode(fields)


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05ab", b"\x0d\0\0", b"\x0b", b"\x00\x01", b"\xff" * 12])
def test_what_is_no_message_is_told(data):
    with pytest.raises(ValueError, match=r"a field|a number|no wire type"):
        decode(data)


def test_a_length_may_be_another_than_that_of_the_value():
    assert encode([Field(1, PREFIXED, b"ab", length=5)]) == b"\x0a\x05ab"


def test_mutations_reach_every_depth_and_most_are_read_as_other_messages():
    whole, read, changed = message(), 0, set()
    for seed in range(300):
        data = mutate_protobuf(Random(seed), whole)
        try:
            made = descriptor.FileDescriptorProto.FromString(data)
        except Exception:
            continue
        read += 1
        changed |= {"top"} if made.name != "a.proto" else set()
        changed |= (
            {"inner"} if any(field.name[:1] != "f" for kind in made.message_type for field in kind.field) else set()
        )
        options = [option for kind in made.message_type for option in kind.options.uninterpreted_option]
        changed |= {"innermost"} if any(option.double_value != 0.5 for option in options) else set()
    assert 100 < read < 300
    assert changed == {"top", "inner", "innermost"}
