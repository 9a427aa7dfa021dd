"""Small but valid ELF64 files for tests: GSP images and kernel modules with real section tables."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_PROGBITS = 1
_STRTAB = 3
NOBITS = 8


def elf_file(sections: Sequence[tuple[str, bytes]], *, kind: int = 1, machine: int = 243) -> bytes:
    """An ELF file with these (name, content) sections; names and table at its end, as in real ones."""
    everything = [*sections, (".shstrtab", b"")]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _content in everything)
    body, table, name_at = bytearray(64), bytearray(64), 1
    for name, given in everything:
        content = names if name == ".shstrtab" else given
        section_type = _STRTAB if name == ".shstrtab" else _PROGBITS
        table += struct.pack("<IIQQQQIIQQ", name_at, section_type, 0, 0, len(body), len(content), 0, 0, 1, 0)
        name_at += len(name) + 1
        body += content
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(everything) + 1
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0, 0, len(body), 0, 64, 0, 0, 64, count, count - 1
    )
    return bytes(body + table)


def gsp_image(version: str, chips: Sequence[str], payload: int = 4096) -> bytes:
    """A GSP image of ``version`` with a signature for each of ``chips`` and ``payload`` bytes of firmware."""
    return elf_file([
        (".fwimage", b"\xa5" * payload),
        (".fwversion", version.encode() + b"\0"),
        *((f".fwsignature_{chip}", b"\x5a" * 4096) for chip in chips),
        (".note.gnu.build-id", b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + b"\x11" * 20),
    ])


def kernel_module(modinfo: Mapping[str, str]) -> bytes:
    """A kernel module with these fields in its .modinfo section."""
    fields = b"".join(f"{key}={value}".encode() + b"\0" for key, value in modinfo.items())
    return elf_file(
        [(".text", b"\x90" * 512), (".modinfo", fields), (".gnu.linkonce.this_module", bytes(64))], machine=62
    )
