"""ELF64 headers of GSP images and kernel modules: which sections there are, and the small ones' bytes.

Only headers and small sections are read, never the whole file: images are up to 75 MB. The layout is that of
elf(5); what the driver demands of an image is in its kernel_gsp.c (_kgspFwContainerVerifyVersion).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from slurm_gsp.parse import ParseError

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_NULL, _NOBITS = 0, 8
# A GSP image has some 30 sections, a kernel module rarely more than a few hundred.
_MAX_SECTIONS: Final = 4096
_MAX_NAMES: Final = 1 << 20
_SMALL: Final = 1 << 16
_HEAD: Final = 4096
# The driver refuses a version of 64 bytes or more (kernel_gsp.c).
_MAX_VERSION: Final = 63

_VERSION_SECTION: Final = ".fwversion"
_IMAGE_SECTION: Final = ".fwimage"
_SIGNATURE_PREFIX: Final = ".fwsignature_"
_WORTH_KEEPING: Final = (_VERSION_SECTION, ".fwsignature", ".note", ".modinfo")


@dataclass(frozen=True, slots=True)
class Section:
    """One section; ``offset`` and ``size`` in bytes, ``type`` the raw ``sh_type``."""

    name: str
    offset: int
    size: int
    type: int


@dataclass(frozen=True, slots=True)
class GspImage:
    """What a GSP image says of itself: its version text and the chip families it carries signatures for."""

    version: str
    chips: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the section headers lie, and which of them holds the names."""

    offset: int
    count: int
    names: int


def read_sections(stream: BinaryIO, size: int) -> tuple[Section, ...]:
    """The sections of a little-endian ELF64 file of ``size`` bytes, in table order.

    Raises ParseError when it is empty, not such a file, has no section table, or when a section's bytes do
    not all lie inside ``size`` (a message that starts with "truncated:").
    """
    return _sections(stream, size, _table(stream, size))


def read_section(stream: BinaryIO, section: Section, limit: int = _SMALL) -> bytes:
    """The section's bytes; ParseError when it is larger than ``limit`` bytes or the file ends inside it."""
    if section.type == _NOBITS:
        return b""
    if section.size > limit:
        raise ParseError(f"section {section.name} has {section.size} bytes, more than {limit}")
    return _read(stream, section.offset, section.size, f"section {section.name}")


def read_gsp_image(stream: BinaryIO, size: int) -> GspImage:
    """Version and chips of a GSP image; ParseError when the driver could not use it as an image at all."""
    sections = read_sections(stream, size)
    image = _find(sections, _IMAGE_SECTION)
    if image is None or image.size == 0 or image.type == _NOBITS:
        raise ParseError(f"not a GSP image: {_IMAGE_SECTION} is {'missing' if image is None else 'empty'}")
    chips = (
        section.name.removeprefix(_SIGNATURE_PREFIX)
        for section in sections
        if section.name.startswith(_SIGNATURE_PREFIX) and section.size > 0 and section.type != _NOBITS
    )
    return GspImage(_version(stream, sections), frozenset(chips) - {""})


def read_modinfo(stream: BinaryIO, size: int) -> dict[str, str]:
    """The ``key=value`` strings of a kernel module's ``.modinfo``; the first value of a key wins."""
    section = _find(read_sections(stream, size), ".modinfo")
    if section is None:
        raise ParseError("not a kernel module: no .modinfo section")
    fields: dict[str, str] = {}
    for item in read_section(stream, section, _MAX_NAMES).split(b"\0"):
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if equals and key:
            fields.setdefault(key, value)
    return fields


def cut_ranges(stream: BinaryIO, size: int) -> tuple[tuple[int, int], ...]:
    """The (offset, length) ranges to keep of a file that is cut down to a sparse one with real tables.

    Sorted and without overlap. Of a file whose tables cannot be read, the first 4 KiB: enough to see why.
    """
    try:
        table = _table(stream, size)
        sections = _sections(stream, size, table)
    except ParseError:
        return ((0, min(size, _HEAD)),) if size > 0 else ()
    keep = [(0, _HEADER.size), (table.offset, table.count * _SECTION.size)]
    names = sections[table.names]
    keep.append((names.offset, names.size))
    keep.extend((section.offset, section.size) for section in sections if _worth_keeping(section))
    return tuple(_merged(sorted(keep)))


def _worth_keeping(section: Section) -> bool:
    return section.type != _NOBITS and 0 < section.size <= _SMALL and section.name.startswith(_WORTH_KEEPING)


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = ranges[0][0], ranges[0][0]
    for offset, length in ranges:
        if offset > end:
            yield start, end - start
            start = offset
        end = max(end, offset + length)
    yield start, end - start


def _table(stream: BinaryIO, size: int) -> _Table:
    """The place of the section table, checked to lie inside the file."""
    if size <= 0:
        raise ParseError("empty file")
    if size < _HEADER.size:
        raise ParseError(f"truncated: {size} bytes, too short for an ELF header")
    header = _HEADER.unpack(_read(stream, 0, _HEADER.size, "the ELF header"))
    ident, offset, entry_size, count, names = header[0], header[6], header[11], header[12], header[13]
    _check_ident(ident)
    if offset == 0 or count == 0:
        raise ParseError("no section table")
    if count > _MAX_SECTIONS:
        raise ParseError(f"implausible section count {count}")
    if entry_size != _SECTION.size:
        raise ParseError(f"section headers of {entry_size} bytes instead of {_SECTION.size}")
    if names >= count:
        raise ParseError(f"section names in section {names} of {count}")
    _check_inside("the section table", offset, count * _SECTION.size, size)
    return _Table(offset, count, names)


def _check_ident(ident: bytes) -> None:
    if ident[:4] != b"\x7fELF":
        raise ParseError(f"not an ELF file: it starts with {ident[:4].hex()}")
    if ident[4] != 2:
        raise ParseError("not a 64-bit ELF file")
    if ident[5] != 1:
        raise ParseError("not a little-endian ELF file")


def _sections(stream: BinaryIO, size: int, table: _Table) -> tuple[Section, ...]:
    raw = _read(stream, table.offset, table.count * _SECTION.size, "the section table")
    headers = list(_SECTION.iter_unpack(raw))
    for index, (_name, kind, _flags, _addr, offset, length, *_rest) in enumerate(headers):
        if kind not in {_NULL, _NOBITS}:
            _check_inside(f"section {index}", offset, length, size)
    names = _names(stream, headers[table.names])
    return tuple(Section(_name_at(names, head[0]), head[4], head[5], head[1]) for head in headers)


def _names(stream: BinaryIO, header: tuple[int, ...]) -> bytes:
    kind, offset, length = header[1], header[4], header[5]
    if kind in {_NULL, _NOBITS}:
        raise ParseError("the section names have no bytes in the file")
    if length > _MAX_NAMES:
        raise ParseError(f"implausible section names: {length} bytes")
    return _read(stream, offset, length, "the section names")


def _name_at(names: bytes, offset: int) -> str:
    if offset >= len(names) and offset > 0:
        raise ParseError(f"section name at {offset} of {len(names)} bytes")
    # No real name is longer; without the bound, overlapping names would cost count times the table.
    return names[offset : offset + 256].partition(b"\0")[0].decode("utf-8", "replace")


def _version(stream: BinaryIO, sections: tuple[Section, ...]) -> str:
    section = _find(sections, _VERSION_SECTION)
    if section is None:
        raise ParseError(f"not a GSP image: no {_VERSION_SECTION} section")
    data = read_section(stream, section, _MAX_VERSION)
    text = data[:-1].decode("latin-1")
    if data[-1:] != b"\0" or not text or not (text.isascii() and text.isprintable()):
        raise ParseError(f"{_VERSION_SECTION} is not text that a NUL ends: {data!r}")
    return text


def _find(sections: tuple[Section, ...], name: str) -> Section | None:
    return next((section for section in sections if section.name == name), None)


def _check_inside(what: str, offset: int, length: int, size: int) -> None:
    if offset + length > size:
        raise ParseError(f"truncated: {what} ends at byte {offset + length}, the file has {size}")


def _read(stream: BinaryIO, offset: int, length: int, what: str) -> bytes:
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise ParseError(f"truncated: the file ends inside {what}")
    return data
