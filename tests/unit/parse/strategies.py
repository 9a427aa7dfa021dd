"""Inputs for property tests: arbitrary text, and valid samples that were cut, doubled or garbled."""

from hypothesis import strategies as st


@st.composite
def garbled(draw: st.DrawFn, samples: list[str]) -> str:
    """A sample with a slice replaced by arbitrary text, or arbitrary text alone."""
    text = draw(st.sampled_from(samples))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    return text[:start] + draw(st.text(max_size=40)) + text[end:]


def noisy(samples: list[str]) -> st.SearchStrategy[str]:
    """Arbitrary text, or a garbled sample."""
    return st.one_of(st.text(max_size=200), garbled(samples))


@st.composite
def garbled_bytes(draw: st.DrawFn, sample: bytes) -> bytes:
    """A sample that was cut short, or that has some of its bytes replaced."""
    data = bytearray(sample[: draw(st.integers(0, len(sample)))] if draw(st.booleans()) else sample)
    for _ in range(draw(st.integers(0, 8))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)
