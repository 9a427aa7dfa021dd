"""The scripts of the steps: templates that a site can replace one by one, and values that stay values.

Every value is quoted for the shell where it is put in, whatever it holds: a template writes ``{{ name }}``
without quotes around it. A list becomes its words. A value that nobody gave is an error.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Final

import jinja2

from slurm_gsp.node.failing import StepError
from slurm_gsp.node.trusted import why_untrusted

OURS: Final = Path(__file__).with_name("templates")
COMMON: Final = "common"
SUFFIX: Final = ".sh.j2"


class Scripts:
    """The templates of one family: the site's own in ``overrides``, ours for all others."""

    def __init__(self, family: str, overrides: Path, *, owner_uid: int = 0) -> None:
        self._family = family
        self._overrides = overrides
        self._owner_uid = owner_uid
        self._environment = jinja2.Environment(  # noqa: S701 - what is rendered is shell: see _quoted
            undefined=jinja2.StrictUndefined,
            finalize=_quoted,
            loader=jinja2.FunctionLoader(self._load),
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, name: str, values: Mapping[str, object]) -> str:
        """The script of this name. StepError where its template cannot be used."""
        try:
            return self._environment.get_template(name).render(values)
        except jinja2.TemplateSyntaxError as error:
            raise StepError(f"template {self.path(name)}, line {error.lineno}: {error.message}") from error
        except (jinja2.TemplateError, TypeError) as error:
            raise StepError(f"template {self.path(name)}: {error}") from error

    def path(self, name: str) -> Path:
        """Where the template of this name is taken from."""
        own = self._overrides / self._family / f"{name}{SUFFIX}"
        if os.path.lexists(own):
            return own
        family = OURS / self._family / f"{name}{SUFFIX}"
        return family if family.exists() else OURS / COMMON / f"{name}{SUFFIX}"

    def _load(self, name: str) -> str:
        path = self.path(name)
        if not path.is_relative_to(OURS):
            self._check(path)
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StepError(f"template {path}: cannot be read: {error}") from error

    def _check(self, path: Path) -> None:
        """Root runs it: nobody else may be able to write it, or to put another in its place."""
        for place in (path, path.parent):
            if why := why_untrusted(place, self._owner_uid):
                raise StepError(f"template {why}")


def _quoted(value: object) -> str:
    """A value as words of a shell."""
    if isinstance(value, str | PurePath):
        return shlex.quote(str(value))
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises: nobody gave it
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return " ".join(map(_quoted, value))
    raise TypeError(f"no word of a shell: {value!r}")
