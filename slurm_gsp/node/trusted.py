"""What root obeys, or installs from, nobody else may be able to change."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def why_untrusted(path: Path, owner_uid: int) -> str:
    """Who else could change what is found at this path, and what to do; empty where nobody could.

    A file by itself is not enough: who can write its folder, or that of a link to it, puts another there,
    unless the folder is sticky.
    """
    try:
        real = path.resolve(strict=True)
        for place in dict.fromkeys((path, real, path.parent, real.parent)):
            status = place.stat()
            is_sticky = place not in {path, real} and status.st_mode & stat.S_ISVTX
            if status.st_uid != owner_uid or (status.st_mode & _OTHERS_WRITE and not is_sticky):
                return f"{place}: others than root can write it; chown root: and chmod go-w {place}"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return ""
