import gzip
import io
import lzma
import struct
from itertools import pairwise

import pytest
from elfbuilder import NOBITS, elf_file, gsp_image, kernel_module
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbled_bytes

from slurm_gsp.collect.compressed import CannotDecompress, OutsideWindow, open_elf
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.elf import (
    GspImage,
    Section,
    cut_ranges,
    read_gsp_image,
    read_modinfo,
    read_section,
    read_sections,
)

IMAGE = gsp_image("580.159.04", ["ga10x", "gh100", "cc_gh100"])
MODULE = kernel_module({
    "version": "580.159.04",
    "license": "Dual MIT/GPL",
    "vermagic": "6.8.0-50-generic SMP",
})


def patched(data, offset, fmt, value):
    """The file with one field of its header replaced."""
    copy = bytearray(data)
    struct.pack_into(fmt, copy, offset, value)
    return bytes(copy)


def image_of(data):
    return read_gsp_image(io.BytesIO(data), len(data))


def test_sections_have_their_place_and_bytes():
    data = elf_file([(".text", b"abc"), (".data", b"defgh")])
    stream = io.BytesIO(data)
    sections = read_sections(stream, len(data))
    assert sections[:3] == (Section("", 0, 0, 0), Section(".text", 64, 3, 1), Section(".data", 67, 5, 1))
    assert read_section(stream, sections[2]) == b"defgh"
    with pytest.raises(ParseError, match="5 bytes, more than 4"):
        read_section(stream, sections[2], limit=4)


def test_an_image_tells_its_version_and_chips():
    assert image_of(IMAGE) == GspImage("580.159.04", frozenset({"ga10x", "gh100", "cc_gh100"}))


def test_only_headers_of_an_image_are_read():
    data = gsp_image("580.159.04", ["gh100"], payload=2 << 20)

    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            got = super().read(size)
            Counting.read_bytes += len(got)
            return got

    read_gsp_image(Counting(data), len(data))
    assert Counting.read_bytes < 4096


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"\x7fELF", "truncated: 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 4, "not an ELF file: it starts with 76657273"),
        (bytes(4096), "not an ELF file: it starts with 00000000"),
        (patched(IMAGE, 4, "B", 1), "not a 64-bit ELF"),
        (patched(IMAGE, 5, "B", 2), "not a little-endian ELF"),
        (patched(IMAGE, 40, "<Q", 0), "no section table"),
        (patched(IMAGE, 40, "<Q", 1 << 63), "truncated: the section table ends"),
        (patched(IMAGE, 58, "<H", 40), "section headers of 40 bytes"),
        (patched(IMAGE, 60, "<H", 0), "no section table"),
        (patched(IMAGE, 60, "<H", 0xFFFF), "implausible section count 65535"),
        (patched(IMAGE, 62, "<H", 99), "section names in section 99"),
        (IMAGE[: len(IMAGE) // 2], "truncated: the section table ends"),
        (IMAGE[:-1], "truncated: the section table ends"),
        (elf_file([(".fwimage", b"x")]), r"no \.fwversion section"),
        (elf_file([(".fwversion", b"580.1\0")]), r"\.fwimage is missing"),
        (gsp_image("580.159.04", ["gh100"], payload=0), r"\.fwimage is empty"),
        (elf_file([(".fwimage", b"x"), (".fwversion", b"580.159.04")]), "not text that a NUL ends"),
        (elf_file([(".fwimage", b"x"), (".fwversion", b"\0")]), "not text that a NUL ends"),
        (elf_file([(".fwimage", b"x"), (".fwversion", b"580\0159\0")]), "not text that a NUL ends"),
        (elf_file([(".fwimage", b"x"), (".fwversion", b"\xff\xfe\0")]), "not text that a NUL ends"),
        (elf_file([(".fwimage", b"x"), (".fwversion", b"5" * 99 + b"\0")]), "100 bytes, more than 63"),
    ],
)
def test_what_is_no_usable_image(data, why):
    with pytest.raises(ParseError, match=why):
        image_of(data)


def test_a_section_outside_the_file_is_a_truncation():
    table = struct.unpack_from("<Q", IMAGE, 40)[0]
    with pytest.raises(ParseError, match="truncated: section 1 ends at byte"):
        image_of(patched(IMAGE, table + 64 + 32, "<Q", len(IMAGE)))


def test_a_section_without_bytes_may_claim_any_size():
    table = struct.unpack_from("<Q", MODULE, 40)[0]
    data = patched(patched(MODULE, table + 64 + 32, "<Q", 1 << 60), table + 64 + 4, "<I", NOBITS)
    sections = read_sections(io.BytesIO(data), len(data))
    assert sections[1] == Section(".text", 64, 1 << 60, NOBITS)
    assert read_section(io.BytesIO(data), sections[1]) == b""


def test_a_signature_without_bytes_is_none():
    data = elf_file([(".fwimage", b"x"), (".fwversion", b"580.1\0"), (".fwsignature_gh100", b"")])
    assert image_of(data) == GspImage("580.1", frozenset())


def test_modinfo():
    assert read_modinfo(io.BytesIO(MODULE), len(MODULE)) == {
        "version": "580.159.04",
        "license": "Dual MIT/GPL",
        "vermagic": "6.8.0-50-generic SMP",
    }
    twice = elf_file([(".modinfo", b"alias=a\0\0alias=b\0junk\0=x\0version=1\xff\0")])
    assert read_modinfo(io.BytesIO(twice), len(twice)) == {"alias": "a", "version": "1\ufffd"}
    with pytest.raises(ParseError, match=r"no \.modinfo"):
        read_modinfo(io.BytesIO(IMAGE), len(IMAGE))


@pytest.mark.parametrize("data", [IMAGE, MODULE, gsp_image("580.159.04", ["gh100"], payload=1 << 20)])
def test_a_file_cut_down_to_its_ranges_reads_the_same(data):
    ranges = cut_ranges(io.BytesIO(data), len(data))
    cut = bytearray(len(data))
    for offset, length in ranges:
        cut[offset : offset + length] = data[offset : offset + length]
    assert read_sections(io.BytesIO(cut), len(cut)) == read_sections(io.BytesIO(data), len(data))
    read = read_modinfo if data is MODULE else read_gsp_image
    assert read(io.BytesIO(cut), len(cut)) == read(io.BytesIO(data), len(data))
    assert sum(length for _offset, length in ranges) < 20_000
    assert all(a + b < c for (a, b), (c, _) in pairwise(ranges))


def test_of_a_broken_file_its_start_is_kept():
    assert cut_ranges(io.BytesIO(b""), 0) == ()
    assert cut_ranges(io.BytesIO(b"abc"), 3) == ((0, 3),)
    assert cut_ranges(io.BytesIO(bytes(9000)), 9000) == ((0, 4096),)


@given(
    st.one_of(st.binary(max_size=300), garbled_bytes(IMAGE), garbled_bytes(MODULE)), st.integers(0, 20_000)
)
def test_any_bytes_give_a_value_or_a_parse_error(data, other_size):
    for size in (len(data), other_size):
        for read in (read_gsp_image, read_modinfo, read_sections):
            try:
                read(io.BytesIO(data), size)
            except ParseError as error:
                assert str(error)
        assert all(length >= 0 and offset >= 0 for offset, length in cut_ranges(io.BytesIO(data), size))


LARGE = gsp_image("580.159.04", ["ga10x", "gh100"], payload=6 << 20)
COMPRESSED = {".xz": lzma.compress(LARGE, preset=0), ".gz": gzip.compress(LARGE, 1)}


def test_a_plain_file_is_handed_through():
    stream = io.BytesIO(IMAGE)
    assert open_elf(stream, "gsp_ga10x.bin", len(IMAGE)) == (stream, len(IMAGE))


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_image_reads_like_the_plain_one(suffix):
    data = COMPRESSED[suffix]
    stream, size = open_elf(io.BytesIO(data), f"gsp_ga10x.bin{suffix}", len(data))
    assert size == len(LARGE)
    assert read_gsp_image(stream, size) == image_of(LARGE)
    stream.seek(0)
    assert stream.read(100) == LARGE[:100]
    assert stream.tell() == 100
    stream.seek(-8, 2)
    assert stream.read() == LARGE[-8:]
    assert stream.read(1) == b""


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_bytes_that_were_not_kept_are_unknown(suffix):
    data = COMPRESSED[suffix]
    stream, _size = open_elf(io.BytesIO(data), f"gsp.bin{suffix}", len(data))
    for start, length in ((64 << 10, 1), (0, (64 << 10) + 1), (0, -1)):
        stream.seek(start)
        with pytest.raises(OutsideWindow, match="were not kept"):
            stream.read(length)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_damaged_compressed_data(suffix):
    data = COMPRESSED[suffix]
    damages = [data[:-20], data[: len(data) // 2], b"", b"nonsense" * 9, data[:40] + b"\xff" * 40 + data[80:]]
    for damaged in damages:
        with pytest.raises(ParseError, match=r"truncated|damaged"):
            open_elf(io.BytesIO(damaged), f"gsp.bin{suffix}", len(damaged))


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_output_has_a_limit(suffix, monkeypatch):
    monkeypatch.setattr("slurm_gsp.collect.compressed._MAX_OUTPUT", 1 << 20)
    data = COMPRESSED[suffix]
    with pytest.raises(ParseError, match="more than 1 MiB"):
        open_elf(io.BytesIO(data), f"gsp.bin{suffix}", len(data))


def test_too_much_memory_is_no_damage(monkeypatch):
    monkeypatch.setattr("slurm_gsp.collect.compressed._MAX_MEMORY", 1 << 10)
    data = COMPRESSED[".xz"]
    with pytest.raises(CannotDecompress):
        open_elf(io.BytesIO(data), "gsp.bin.xz", len(data))


def test_zstd_is_unknown_where_python_lacks_it(monkeypatch):
    def missing(_name):
        raise ImportError

    monkeypatch.setattr("slurm_gsp.collect.compressed.importlib.import_module", missing)
    with pytest.raises(CannotDecompress, match="zstd"):
        open_elf(io.BytesIO(b"(\xb5/\xfd"), "nvidia.ko.zst", 4)


@given(st.sampled_from([".xz", ".gz"]), st.data())
def test_any_compressed_bytes_give_a_value_or_a_parse_error(suffix, data):
    whole = {".xz": lzma.compress(IMAGE), ".gz": gzip.compress(IMAGE)}[suffix]
    raw = data.draw(st.one_of(st.binary(max_size=100), garbled_bytes(whole)))
    try:
        stream, size = open_elf(io.BytesIO(raw), "gsp.bin" + suffix, len(raw))
        read_gsp_image(stream, size)
    except (ParseError, CannotDecompress):
        pass
