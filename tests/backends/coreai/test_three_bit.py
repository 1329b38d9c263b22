import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.backends.coreai.ops import pack_three_bits


@given(st.lists(st.integers(0, 7), max_size=40))
@settings(max_examples=50, deadline=None)
def test_codes_are_packed_as_one_little_endian_bit_stream(codes):
    stream = sum(code << (3 * at) for at, code in enumerate(codes))
    expected = stream.to_bytes(-(-3 * len(codes) // 8), "little")
    assert bytes(pack_three_bits(torch.tensor(codes, dtype=torch.uint8)).tolist()) == expected
