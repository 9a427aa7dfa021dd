"""ELF64 objects without code: what a kernel module or a GSP image looks like from the outside."""

import struct
from collections.abc import Mapping

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
_RELOCATABLE, _PROGBITS, _STRTAB = 1, 1, 3
RISCV, X86_64 = 243, 62


class NotElfError(ValueError):
    """The bytes are not a complete little-endian ELF64 object."""


def write(sections: Mapping[str, bytes], machine: int) -> bytes:
    """An ELF64 relocatable object that holds these sections."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    body = b""
    table = [_SECTION.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    for name, data in {**sections, ".shstrtab": names}.items():
        kind = _STRTAB if name == ".shstrtab" else _PROGBITS
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        table.append(_SECTION.pack(at, kind, 0, 0, _HEADER.size + len(body), len(data), 0, 0, 1, 0))
        body += data
    body += bytes(-len(body) % 8)
    header = _HEADER.pack(
        _IDENT, _RELOCATABLE, machine, 1, 0, 0, _HEADER.size + len(body), 0,
        _HEADER.size, 0, 0, _SECTION.size, len(table), len(table) - 1,
    )  # fmt: skip
    return header + body + b"".join(table)


def read(data: bytes) -> dict[str, bytes]:
    """The sections of an ELF64 object by name; NotElfError where a bound does not hold."""
    try:
        fields = _HEADER.unpack_from(data)
        if fields[0][:6] != _IDENT[:6]:
            raise NotElfError("no ELF64 little-endian header")
        table = [_SECTION.unpack_from(data, fields[6] + i * _SECTION.size) for i in range(fields[12])]
        if any(offset + size > len(data) for _, _, _, _, offset, size, *_ in table):
            raise NotElfError("a section ends behind the end of the file")
        names = _slice(data, table[fields[13]])
        return {_text(names[section[0] :]): _slice(data, section) for section in table[1:]}
    except (struct.error, IndexError) as error:
        raise NotElfError(str(error)) from error


def _slice(data: bytes, section: tuple[int, ...]) -> bytes:
    return data[section[4] : section[4] + section[5]]


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("ascii", "replace")


_GA10X = ("ga10x", "ad10x", "gh100", "cc_gh100")
_GB = ("gb10x", "gb10y", "gb20x", "gb20y")
GSP_CHIPS = {"gsp_ga10x.bin": (*_GA10X, *_GB), "gsp_tu10x.bin": ("tu10x", "tu11x", "ga100")}


def gsp_image(name: str, version: str) -> bytes:
    """A stand-in for one GSP image: its real sections, no firmware in them."""
    signatures = {f".fwsignature_{chip}": bytes(64) for chip in GSP_CHIPS[name]}
    return write({".fwimage": bytes(4096), ".fwversion": version.encode() + b"\0", **signatures}, RISCV)


def kernel_module(name: str, version: str, release: str, *, is_open: bool = True) -> bytes:
    """A stand-in for one kernel module, with what `modinfo` shows of it."""
    info = {
        "license": "Dual MIT/GPL" if is_open else "NVIDIA",
        "version": version,
        "srcversion": f"{sum(f'{name}{version}{release}'.encode()):023X}",
        "name": name.replace("-", "_"),
        "vermagic": f"{release} SMP preempt mod_unload modversions ",
    }
    if name == "nvidia":
        info["firmware"] = f"nvidia/{version}/gsp_ga10x.bin"
    text = b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())
    return write({".modinfo": text}, X86_64)


def modinfo(data: bytes) -> dict[str, str]:
    """The key=value pairs of a module's .modinfo section."""
    pairs = read(data).get(".modinfo", b"").decode("ascii", "replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
