"""Reading the ELF tables of a compressed image or module without keeping it whole in memory.

The tables lie at the end of the file and the small sections next to them, so the first 64 KiB and the last
4 MiB of the uncompressed bytes are kept; what lies between is gone.
"""

from __future__ import annotations

import importlib
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol, cast

from slurm_gsp.parse import ParseError

_HEAD: Final = 64 << 10
_TAIL: Final = 4 << 20
_CHUNK: Final = 64 << 10
_STEP: Final = 1 << 20
_MAX_OUTPUT: Final = 512 << 20
# xz -9 needs 65 MiB; what needs more is not made for a kernel, which allows far less.
_MAX_MEMORY: Final = 128 << 20


class CannotDecompress(Exception):  # noqa: N818 - a missing means, not an error in the file
    """This Python has no means to read the format: the file is unknown, not damaged."""


class OutsideWindow(ParseError):  # noqa: N818 - likewise
    """The bytes asked for were not kept: what they hold is unknown, not wrong."""


class _Decompressor(Protocol):
    """What lzma and compression.zstd share: input that is not used up is kept for the next call."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def open_elf(stream: BinaryIO, name: str, size: int) -> tuple[BinaryIO, int]:
    """A stream to seek and read in, and its size, for a file that may be compressed; ``name`` tells how.

    Raises ParseError for damaged data or more than 512 MiB of output, CannotDecompress when this Python
    cannot read the format. Reading bytes that were not kept raises OutsideWindow.
    """
    for suffix, make in _FORMATS.items():
        if name.endswith(suffix):
            windows = _Windows(_decompressed(stream, size, make()))
            return cast(BinaryIO, windows), windows.size
    return stream, size


class _Windows:
    """The kept start and end of a stream of ``size`` bytes, with seek, tell and read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        head = bytearray()
        tail: deque[bytes] = deque()
        kept = 0
        self.size = 0
        for chunk in chunks:
            self.size += len(chunk)
            head += chunk[: _HEAD - len(head)]
            tail.append(chunk)
            kept += len(chunk)
            # Whole chunks are dropped, so that the last 4 MiB at least are always there.
            while kept - len(tail[0]) >= _TAIL:
                kept -= len(tail.popleft())
        self._head = bytes(head)
        self._tail = b"".join(tail)
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._position, self.size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, length: int | None = -1) -> bytes:
        wanted = self.size if length is None or length < 0 else length
        start, end = self._position, min(self._position + wanted, self.size)
        data = self._slice(start, end) if start < end else b""
        self._position += len(data)
        return data

    def _slice(self, start: int, end: int) -> bytes:
        first_of_tail = self.size - len(self._tail)
        if start >= first_of_tail:
            return self._tail[start - first_of_tail : end - first_of_tail]
        if end <= len(self._head):
            return self._head[start:end]
        if first_of_tail <= len(self._head):
            return self._head[start:first_of_tail] + self._tail[: end - first_of_tail]
        raise OutsideWindow(f"bytes {start}-{end} of the uncompressed {self.size} were not kept")

    def close(self) -> None:
        self._head = self._tail = b""


def _decompressed(stream: BinaryIO, size: int, decompressor: _Decompressor) -> Iterator[bytes]:
    """The output in pieces of at most 1 MiB. What follows the first compressed stream is ignored."""
    left, total = size, 0
    data = b""
    while not decompressor.eof:
        if decompressor.needs_input:
            data = stream.read(min(_CHUNK, left))
            left -= len(data)
            if not data:
                raise ParseError("truncated: the compressed data end too early")
        piece = _step(decompressor, data)
        data = b""
        total += len(piece)
        if total > _MAX_OUTPUT:
            raise ParseError(f"more than {_MAX_OUTPUT >> 20} MiB when uncompressed")
        if piece:
            yield piece


def _step(decompressor: _Decompressor, data: bytes) -> bytes:
    try:
        return decompressor.decompress(data, _STEP)
    except (MemoryError, lzma.LZMAError) as error:
        if isinstance(error, MemoryError) or "emory" in str(error):
            raise CannotDecompress(str(error) or "out of memory") from None
        raise ParseError(f"damaged compressed data: {error}") from None
    # compression.zstd has its own error class, which an older Python cannot name.
    except Exception as error:
        raise ParseError(f"damaged compressed data: {error}") from None


class _Gzip:
    """zlib's decompressor in the shape of lzma's: it keeps the input that it has not used yet."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_MEMORY)


def _zstd() -> _Decompressor:
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ImportError:
        raise CannotDecompress("zstd needs Python 3.14") from None
    return cast(_Decompressor, zstd.ZstdDecompressor())


_FORMATS: Final[dict[str, Callable[[], _Decompressor]]] = {".xz": _xz, ".gz": _Gzip, ".zst": _zstd}
