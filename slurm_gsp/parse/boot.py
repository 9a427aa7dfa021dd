"""Which kernel boots next: GRUB's environment and menu, boot loader entries, names of kernel images.

Everything here answers None rather than guess: a wrong release would report a fault that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from slurm_gsp.core.version import kernel_sort_key

_RELEASE: Final = r"[0-9]{1,4}\.[0-9]{1,6}[^\s()>/'\"]*"
_IS_RELEASE: Final = re.compile(_RELEASE)
_IMAGE: Final = re.compile(rf"(?:vmlinuz|vmlinux|Image|kernel)-({_RELEASE})")
# How an entry's id or title tells its release: a BLS id, Debian's and Ubuntu's ids, their and SUSE's titles
# ("Ubuntu, with Linux 6.8.0-50-generic"), Red Hat's ("Rocky Linux (5.14.0-503.el9.x86_64) 9.5").
_NAMES: Final = (
    re.compile(rf"[0-9a-f]{{32}}-({_RELEASE})"),
    re.compile(rf"gnulinux-({_RELEASE}?)-(?:advanced|recovery|init-[a-z]+)-\S+"),
    re.compile(rf".*, with Linux ({_RELEASE})(?: \(.*\))?"),
    re.compile(rf"[^()]*\(({_RELEASE})\).*"),
)
_SET_DEFAULT: Final = re.compile(r"^[ \t]*set default=(.{0,512})$", re.MULTILINE)
_OPENS: Final = re.compile(r"\s*(menuentry|submenu)\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))(\s.*)?\{\s*")
_ID: Final = re.compile(r"(?:\$menuentry_id_option|--id)[ =]+(?:'([^']*)'|\"([^\"]*)\"|(\S+))")
_LINUX: Final = re.compile(r"\s*linux(?:16|efi)?\s+(\S+)")
_BLS_IN_MENU: Final = re.compile(r"^[ \t]*blscfg\b", re.MULTILINE)


@dataclass(slots=True)
class _Entry:
    """A menu entry, or with ``children`` a submenu."""

    title: str
    id: str = ""
    release: str | None = None
    children: list[_Entry] | None = field(default=None)


def grub_default(grubenv: str | None, grub_cfg: str | None) -> str | None:
    """The kernel release that GRUB boots next, from its environment block and its grub.cfg.

    None when it cannot be told: neither file, an entry number of a menu that is made at boot (BLS), an entry
    that is not in the menu, or one that boots no kernel.
    """
    environment = _environment(grubenv or "")
    wanted = environment.get("next_entry") or _configured(environment, grub_cfg)
    if not wanted:
        return None
    if grub_cfg is None or _BLS_IN_MENU.search(grub_cfg):
        return _release_in_name(wanted)
    return _chosen(_menu(grub_cfg), wanted)


def release_of_image(path: str) -> str | None:
    """The release of a kernel image: "/boot/vmlinuz-6.1.0-28-amd64" or "/<machine id>/<release>/linux".

    None for rescue images, memtest and names without a release.
    """
    directory, _, name = path.strip().rpartition("/")
    found = _IMAGE.fullmatch(name)
    if found:
        return found[1]
    parent = directory.rpartition("/")[2]
    return parent if name == "linux" and _IS_RELEASE.fullmatch(parent) else None


def loader_entry(default: str, entries: Mapping[str, str]) -> str | None:
    """The release that the boot loader entry ``default`` boots.

    ``entries`` maps names of files in loader/entries (with or without .conf) to their text. ``default`` is a
    name, or a pattern as in loader.conf, which means the newest kernel that it matches.
    """
    wanted = default.strip().removesuffix(".conf")
    texts = {name.rpartition("/")[2].removesuffix(".conf"): text for name, text in entries.items()}
    if wanted in texts:
        return _entry_release(texts[wanted])
    if not wanted or len(wanted) > 256:
        return None
    matching = (_entry_release(text) for name, text in texts.items() if fnmatchcase(name, wanted))
    return max((release for release in matching if release), key=kernel_sort_key, default=None)


def _environment(text: str) -> dict[str, str]:
    """The variables of a grubenv block; its padding is a line of #."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _configured(environment: Mapping[str, str], grub_cfg: str | None) -> str | None:
    """The entry that grub.cfg makes the default: its own, or the one saved in the environment."""
    saved = environment.get("saved_entry")
    if grub_cfg is None:
        return saved
    values = {value.strip().strip("\"'") for value in _SET_DEFAULT.findall(grub_cfg)} - {"${next_entry}"}
    if len(values) != 1:
        return None
    value = values.pop()
    return (saved or "0") if value == "${saved_entry}" else value


def _release_in_name(name: str) -> str | None:
    last = name.rpartition(">")[2].strip()[:512]
    found = next((match for pattern in _NAMES if (match := pattern.fullmatch(last))), None)
    return found[1] if found else None


def _chosen(menu: Sequence[_Entry], wanted: str) -> str | None:
    """The release of the entry at a path such as ``0``, ``1>2`` or ``Advanced options>gnulinux-...``."""
    entries: Sequence[_Entry] | None = menu
    entry = None
    for step in wanted.split(">"):
        entry = _step(entries or (), step.strip())
        if entry is None:
            return None
        entries = entry.children
    return entry.release if entry and entries is None else None


def _step(entries: Sequence[_Entry], wanted: str) -> _Entry | None:
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 6:
        return entries[int(wanted)] if int(wanted) < len(entries) else None
    return next((entry for entry in entries if wanted and wanted in {entry.id, entry.title}), None)


def _menu(text: str) -> list[_Entry]:
    """The entries of a grub.cfg. A line that ends in { opens a block, a line of } closes it."""
    menu: list[_Entry] = []
    # The open blocks; None stands for a function, whose inside is no menu.
    blocks: list[_Entry | None] = []
    for line in text.splitlines():
        opens = _OPENS.fullmatch(line)
        if opens:
            entry = _opened(opens)
            _siblings(menu, blocks).append(entry)
            blocks.append(entry)
        elif line.rstrip().endswith("{"):
            blocks.append(None)
        elif line.strip() == "}" and blocks:
            blocks.pop()
        elif blocks and blocks[-1] and blocks[-1].release is None and (linux := _LINUX.match(line)):
            blocks[-1].release = release_of_image(linux[1])
    return menu


def _opened(match: re.Match[str]) -> _Entry:
    found = _ID.search(match[5] or "")
    name = (found[1] or found[2] or found[3] or "") if found else ""
    title = match[2] or match[3] or match[4] or ""
    return _Entry(title, name, None, [] if match[1] == "submenu" else None)


def _siblings(menu: list[_Entry], blocks: Sequence[_Entry | None]) -> list[_Entry]:
    """The list that an entry opened here belongs to: the innermost submenu's, else the menu's."""
    inside = next(
        (block.children for block in reversed(blocks) if block and block.children is not None), None
    )
    return menu if inside is None else inside


def _entry_release(text: str) -> str | None:
    """The release of a boot loader entry: its kernel image's name, else its ``version`` field."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(None, 1)
        if len(words) == 2:
            fields.setdefault(words[0], words[1].strip())
    version = fields.get("version", "")
    return release_of_image(fields.get("linux", "")) or (version if _IS_RELEASE.fullmatch(version) else None)
