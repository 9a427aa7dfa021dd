"""Reading the tables of a TOML file with care: values that were checked, and every mistake at its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

Place: TypeAlias = tuple[str, ...]
"""Where a table or key stands: ("profile", "h100", "driver"), or () for the whole file."""
Problem: TypeAlias = tuple[Place, str]
"""A table or key that is wrong, and what to tell about it."""


def placed(problems: Iterable[Problem], text: str, where: str) -> list[str]:
    """One line for each problem, in the order of the file; what is missing stands where its table starts."""
    lines = _lines_of_keys(text)

    def line(path: Place) -> int:
        return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)

    found = sorted(((line(path), told) for path, told in problems), key=lambda one: one[0])
    return [f"{where}:{number}: {printable(told)}" for number, told in found]


class Table:
    """One table of the file: gives values that were checked, and collects what is wrong with the others."""

    def __init__(
        self, place: Place, values: object, problems: list[Problem], *, noun: str = "key", like: str = ""
    ) -> None:
        self.place = place
        self.name = ".".join(place)
        self.noun = noun
        self.problems = problems
        self.known: list[str] = []
        self.values: dict[str, object] = {}
        if isinstance(values, dict):
            self.values = dict(values)
        else:
            advice = f"write {like}" if like else f"write [{self.name}] on a line of its own"
            problems.append((place, f"[{self.name}]: must be a table, not {kind(values)}; {advice}"))

    def refuse(self, key: str, told: str) -> None:
        label = f"[{self.name}] {key}" if self.place else key
        self.problems.append(((*self.place, key), f"{label}: {told}"))

    def refuse_the_rest(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self.values:
            if key not in self.known:
                self.refuse(key, f"there is no such {self.noun}{nearest(key, self.known)}")

    def take(self, key: str) -> object | None:
        """The raw value of a key, or None (TOML has no null)."""
        self.known.append(key)
        return self.values.get(key)

    def switch(self, key: str, default: bool) -> bool:
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.refuse(key, f"must be true or false, not {kind(value)}; write {key} = true, without quotes")
        return default

    def optional_whole(self, key: str, low: int, high: int) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"must be a whole number, not {kind(value)}; write it without quotes or point")
        elif low <= value <= high:
            return value
        else:
            self.refuse(key, f"{shown(value)} is out of range; take {low} to {high}")
        return None

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.optional_whole(key, low, high)
        return default if value is None else value

    def number(  # noqa: PLR0913  (a range has two ends, each in or out)
        self, key: str, default: float, low: float, high: float, *, above: bool = False, below: bool = False
    ) -> float:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"must be a number, not {kind(value)}; write it without quotes")
            return default
        if low <= value <= high and not (above and value == low) and not (below and value == high):
            return float(value)
        start = f"above {low:g}" if above else f"from {low:g}"
        end = f"below {high:g}" if below else f"up to {high:g}"
        self.refuse(key, f"{shown(value)} is out of range; take a number {start} and {end}")
        return default

    def path(self, key: str, default: str, *, may_be_empty: bool = False) -> str:
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(key, f"must be an absolute path in quotes, not {kind(value)}")
        elif _is_path(value) or (not value and may_be_empty):
            return value
        else:
            self.refuse(key, f"{shown(value)} is not an absolute path; start it with /")
        return default

    def paths(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.take(key)
        if value is None:
            return default
        texts = _texts(value)
        if texts is None:
            self.refuse(key, f'must be a list of absolute paths, not {kind(value)}; write {key} = ["/..."]')
            return default
        for text in texts:
            if not _is_path(text):
                self.refuse(key, f"{shown(text)} is not an absolute path; start it with /")
        return texts

    def command(self, key: str) -> tuple[str, ...]:
        """A command: empty, an absolute path, or a list of it and its arguments."""
        value = self.take(key)
        if value is None or value == "":
            return ()
        argv = (value,) if isinstance(value, str) else _texts(value)
        if argv is None:
            self.refuse(
                key,
                f"must be a path in quotes, or a list of a path and its arguments, not {kind(value)}",
            )
            return ()
        if argv and not _is_path(argv[0]):
            self.refuse(
                key, f"{shown(argv[0])} is not an absolute path; hooks run without PATH: start it with /"
            )
        elif any("\0" in word for word in argv):
            self.refuse(key, "an argument holds a NUL character; remove it")
        else:
            return argv
        return ()

    def commands(self, key: str) -> tuple[tuple[str, ...], ...]:
        """Several commands: a list of lists, each an absolute path and its arguments."""
        value = self.take(key)
        if value is None:
            return ()
        items = [_texts(item) for item in value] if isinstance(value, list) else [None]
        commands = tuple(item for item in items if item)
        if len(commands) != len(items):
            self.refuse(key, f'must be a list of commands, each a list of strings; write {key} = [["/..."]]')
            return ()
        for argv in commands:
            if not _is_path(argv[0]) or any("\0" in word for word in argv):
                self.refuse(key, f"{shown(argv[0])} is not an absolute path; start it with /")
        return commands

    def text(self, key: str, form: str, what: str, like: str, *, needed: bool = False) -> str | None:
        """A string of this form; when it is ``needed``, its absence is refused too."""
        value = self.take(key)
        if value is None:
            if needed:
                self.refuse(key, f'is missing; write {key} = "{like}"')
        elif not isinstance(value, str):
            self.refuse(key, f'must be a string, not {kind(value)}; put it in quotes: {key} = "{like}"')
        elif re.fullmatch(form, value):
            return value
        else:
            self.refuse(key, f'{shown(value)} is not {what}; write it like "{like}"')
        return None

    def texts(self, key: str, form: str, what: str, like: str) -> tuple[str, ...]:
        """The strings of this form in a list, each once; () when there is none."""
        value = self.take(key)
        if value is None:
            return ()
        items = _texts(value)
        if items is None or not items:
            given = kind(value) if items is None else "an empty list"
            self.refuse(key, f'must be a list of strings, not {given}; write {key} = ["{like}"]')
            return ()
        good: list[str] = []
        for item in items:
            if not re.fullmatch(form, item):
                self.refuse(key, f'{shown(item)} is not {what}; write it like "{like}"')
            elif item in good:
                self.refuse(key, f"{shown(item)} is there twice; remove one")
            else:
                good.append(item)
        return tuple(good)

    def driver_version(self, key: str) -> str | None:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            told = f'must be a string, not {kind(value)}; put it in quotes: {key} = "580.95.05"'
            self.refuse(key, told)
        elif re.fullmatch(r"[0-9]{3,4}\.[0-9]{1,3}(\.[0-9]{1,3})?", value):
            return value
        else:
            self.refuse(key, f'{shown(value)} is not a driver version; write it like "580.95.05"')
        return None

    def one_of(self, key: str, choices: tuple[str, ...]) -> str | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, str) and value in choices:
            return value
        self.refuse(key, f"{shown(value)} is none of the choices; take {' or '.join(map(shown, choices))}")
        return None


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text


def _texts(value: object) -> tuple[str, ...] | None:
    """A list of strings as a tuple, or None if it is something else."""
    if not isinstance(value, list):
        return None
    texts = tuple(item for item in value if isinstance(item, str))
    return texts if len(texts) == len(value) else None


_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def kind(value: object) -> str:
    """What a value is, for "must be ..., not ..."."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, str):
        return f"the string {shown(value)}"
    if isinstance(value, list) and value and not all(isinstance(item, str) for item in value):
        return "a list with other things than strings"
    return _KINDS.get(type(value), "a date or time")


def shown(value: object) -> str:
    """A value for a message: as TOML would write it, cut to one short line."""
    if isinstance(value, str):
        text = f'"{printable(value)}"'
    elif isinstance(value, int) and value.bit_length() > 200:  # str() refuses numbers of many digits
        return "that number"
    else:
        text = printable(str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """One line that any terminal and log takes."""
    return re.sub(r"[^ -~]", "?", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint after an unknown name: the known one that it looks like, or all of them."""
    import difflib  # noqa: PLC0415  (only for a message)

    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; there are: {', '.join(choices)}"


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table and key, for messages: found by looking at the text, so near enough."""
    header_form = re.compile(r"\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?")
    key_form = re.compile(r"""((?:[A-Za-z0-9_. \t-]|"[^"]*"|'[^']*')+)=""")
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if inside:  # a string of several lines, which may look like anything
            inside = "" if inside in line else inside
            continue
        header = header_form.fullmatch(line.strip())
        key = None if header else key_form.match(line.strip())
        if header:
            table = _parts(header[1])
            path = table
        elif key:
            path = table + _parts(key[1])
            value = line.strip()[key.end() :].strip()
            inside = next((quote for quote in ('"""', "'''") if value.startswith(quote)), "")
            inside = "" if inside and inside in value[3:] else inside
        else:
            continue
        for end in range(1, len(path) + 1):
            lines.setdefault(path[:end], number)
    return lines


def _parts(dotted: str) -> tuple[str, ...]:
    parts = re.finditer(r"""[A-Za-z0-9_-]+|"([^"]*)"|'([^']*)'""", dotted)
    return tuple(match[1] or match[2] or match[0] for match in parts)


def syntax_error(text: str, where: str, error: Exception, hint: str) -> str:
    """The one line about a text that is not TOML; ``hint`` unless the mistake is a common one."""
    told = str(error) if isinstance(error, ValueError) else "nested too deep"
    at = re.search(r"\(at line ([0-9]+), column ([0-9]+)\)", told)
    count = text.count("\n") + (not text.endswith("\n"))
    number = int(at[1]) if at else max(count, 1)
    lines = text.split("\n")
    line = lines[number - 1] if number <= len(lines) else ""
    if re.search(r"=\s*[0-9]+\.[0-9]+\.[0-9]", line):
        hint = 'a version is a string: put it in quotes, like "580.95.05"'
    elif re.search(r"=\s*(?:/|[Tt]rue|TRUE|[Ff]alse|FALSE|yes|no|on|off)", line):
        hint = "put paths in quotes, and write true or false in small letters"
    return f"{where}:{number}: not TOML: {printable(told)}; {hint}"
