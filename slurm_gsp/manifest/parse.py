"""A manifest's text: a Manifest, or every mistake in it at once. Pure: files are read by who calls."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from slurm_gsp.core.version import branch, find_driver_version, parse_driver_version
from slurm_gsp.manifest.match import NodeFacts, assign_by, folded, has_gpus
from slurm_gsp.manifest.model import (
    FileDigest,
    FirmwarePin,
    Hardware,
    Manifest,
    Matcher,
    Packages,
    PinnedPackage,
    Profile,
)
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.gres import expand_hostlist
from slurm_gsp.parse.packages import Package, driver_version_of, fabric_manager, is_driver_package
from slurm_gsp.toml_table import Problem, Table, kind, nearest, placed, printable, shown, syntax_error

NONE: Final = "none"
"""What ``previous`` says in the first manifest."""
FLAVOURS: Final = ("open", "proprietary")
FIRST_OPEN_BRANCH: Final = 515
MAX_GPUS: Final = 1024
LONGEST_HISTORY: Final = 1000

_TOP: Final = ("name", "previous", "created", "notes", "profile")
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
_WORD: Final = r"[^\s,;&|()\[\]*]{1,64}"
_GRES: Final = r"[A-Za-z0-9_]{1,64}(?::[A-Za-z0-9_.+-]{1,64}){0,2}"
_HOSTLIST: Final = re.compile(r"[A-Za-z0-9._,\[\]-]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMPONENT: Final = re.compile(r"(?=[!-~]{1,128}$)[^\[\]/\"'\\%]+")
_FIRMWARE: Final = r"(?=[!-~])[ -)+->@-~]{1,128}(?<=[!-~])"
_MODULE: Final = r"[A-Za-z0-9._+-]+:[A-Za-z0-9._+-]+"
_TOPOLOGY_ROW: Final = re.compile(
    r"^\s*GPU([0-9]+)\s+(?:X|NV[0-9]+|SYS|NODE|PHB|PXB|PIX|PSB)\b", re.MULTILINE
)

_NAME_FORMS: Final[Mapping[str, str]] = {
    "apt": r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9-]+)?",
    "dnf": r"[A-Za-z0-9_][A-Za-z0-9._+-]*",
    "zypper": r"[A-Za-z0-9_][A-Za-z0-9._+-]*",
}
_VERSION_FORMS: Final[Mapping[str, str]] = {
    "apt": r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*",
    "dnf": r"[0-9]+:[A-Za-z0-9][A-Za-z0-9._+~^]*-[A-Za-z0-9._+~^]+",
    "zypper": r"(?:[0-9]+:)?[A-Za-z0-9][A-Za-z0-9._+~^]*-[A-Za-z0-9._+~^]+",
}
_VERSION_EXAMPLES: Final[Mapping[str, str]] = {
    "apt": "570.195.03-0ubuntu1",
    "dnf": "3:570.195.03-1.el9",
    "zypper": "570.195.03-1",
}
_VERSION_WHATS: Final[Mapping[str, str]] = {
    "apt": "one exact version",
    "dnf": "one exact epoch:version-release",
    "zypper": "one exact version-release",
}

_BRANCH_IN_NAME: Final = re.compile(r"-([3-9][0-9]{2})(?=-|$)")
# Modules of the proprietary flavour; nothing that both flavours need, such as RHEL's nvidia-driver.
_PROPRIETARY: Final = re.compile(
    "|".join((
        r"nvidia-(?:dkms|kernel-source|headless)(?:-[0-9]{3})?(?:-server)?",
        r"nvidia-kernel-(?:dkms|source)|kmod-nvidia-(?:latest-)?dkms|nvidia-driver-G[0-9]{2}-kmp-.+",
        r"linux-(?:modules|objects|signatures)-nvidia-[0-9]{3}(?:-server)?-(?!server-|open-).+",
    ))
)

Read: TypeAlias = Callable[[str], tuple[str, str]]
"""From a manifest's name to (where it is, its text); raises Unreadable."""


class ManifestError(Exception):
    """The manifest cannot be used; ``errors`` has one line for each mistake."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors: tuple[str, ...] = tuple(errors)
        super().__init__("\n".join(self.errors))


class Unreadable(Exception):  # noqa: N818  (named after what happened)
    """A previous manifest that cannot be read, or not be trusted; the message says why and what to do."""


def parse(text: str, where: str, nodes: Sequence[NodeFacts] | None = None) -> Manifest:
    """The manifest that ``text`` says, by itself; with ``nodes``, also whether it fits this fleet."""
    draft = _Draft(text, where)
    draft.check_nodes(nodes)
    return draft.finish()


def parse_with_previous(
    text: str, where: str, read: Read, nodes: Sequence[NodeFacts] | None = None
) -> tuple[Manifest, Manifest | None]:
    """The manifest and the one before it, which must be good too: it is what a rollback installs.

    Older ones are followed only as far as they can be read, to see whether the names go round in a circle.
    """
    draft = _Draft(text, where)
    draft.check_nodes(nodes)
    before, errors = _previous(draft, read)
    if errors:
        own: tuple[str, ...] = ()
        try:
            draft.finish()
        except ManifestError as error:
            own = error.errors
        raise ManifestError((*own, *errors))
    return draft.finish(), before


def _previous(draft: _Draft, read: Read) -> tuple[Manifest | None, tuple[str, ...]]:
    """The previous manifest, or the mistakes in it; what is wrong with naming it goes to the draft."""
    if draft.previous is None or draft.previous == draft.name:  # the latter is told already
        return None, ()
    try:
        where, text = read(draft.previous)
    except Unreadable as error:
        draft.problems.append((("previous",), f'previous: "{draft.previous}" cannot be used: {error}'))
        return None, ()
    try:
        manifest = parse(text, where)
    except ManifestError as error:
        told = f'previous: "{draft.previous}" is not good; repair {where}: its mistakes follow'
        draft.problems.append((("previous",), told))
        return None, error.errors
    if manifest.name != draft.previous:
        told = f'{where} says name = "{manifest.name}"; a manifest stands in the file of its own name'
        draft.problems.append((("previous",), f"previous: {told}"))
    elif draft.created is not None and manifest.created > draft.created:
        told = f'"{manifest.name}" was created later, {manifest.created}; is it the right one?'
        draft.problems.append((("previous",), f"previous: {told}"))
    _follow(draft, manifest, read)
    return manifest, ()


def _follow(draft: _Draft, manifest: Manifest, read: Read) -> None:
    """Go back through older manifests and refuse a circle."""
    names = [draft.name or draft.where, manifest.name]
    while manifest.previous is not None and len(names) < LONGEST_HISTORY:
        names.append(manifest.previous)
        if manifest.previous in names[:-1]:
            told = f"goes round in a circle: {' -> '.join(names)}; make one of them the first: previous = "
            draft.problems.append((("previous",), f'previous: {told}"{NONE}"'))
            return
        try:
            where, text = read(manifest.previous)
            manifest = parse(text, where)
        except (Unreadable, ManifestError):
            return


class _Draft:
    """A text while it is judged: what could be read of it, and what is wrong."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.problems: list[Problem] = []
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError([syntax_error(text, where, error, "see manifest.example.toml")]) from error
        top = Table((), document, self.problems)
        name = top.text("name", _NAME, "a name of letters, digits and . _ + -", "2026-11", needed=True)
        if name == NONE:
            top.refuse("name", f'"{NONE}" means that there is none; take another name')
        self.name = name
        self.previous = self._previous(top)
        self.created = _created(top)
        self.notes = top.text("notes", r"(?s).*", "a text", "why, and what was tested") or ""
        self.matchers: dict[str, Matcher] = {}
        self.profiles: list[Profile | None] = []
        self.overlapping: set[tuple[str, ...]] = set()
        self._profiles(top.take("profile"))
        for key in top.values:
            if key not in top.known:
                if isinstance(top.values[key], dict):
                    told = f"[{key}]: there is no such table; write [profile.NAME]"
                    self.problems.append(((key,), told))
                else:
                    top.refuse(key, f"there is no such key{nearest(key, _TOP)}")

    def _previous(self, top: Table) -> str | None:
        if "previous" not in top.values:
            top.take("previous")
            top.refuse("previous", f'is missing; name the manifest before this one, or write "{NONE}"')
            return None
        previous = top.text("previous", _NAME, "the name of a manifest", "2026-10")
        if previous not in {None, NONE} and previous == self.name:
            top.refuse("previous", f'is this manifest itself; name the one before it, or write "{NONE}"')
        return None if previous == NONE else previous

    def _profiles(self, values: object) -> None:
        if values is None or values == {}:
            self.problems.append((("profile",), "[profile]: there is none; write [profile.NAME] tables"))
            return
        table = Table(("profile",), values, self.problems, like="[profile.NAME]")
        for name, value in table.values.items():
            place = ("profile", name)
            if not re.fullmatch(_NAME, name):
                told = "is not a name of letters, digits and . _ + -; take another name"
                self.problems.append((place, f"[profile.{name}]: {told}"))
            twin = next((other for other in table.values if other.lower() == name.lower()), name)
            if twin != name:
                told = f"differs from [profile.{twin}] in capitals only; take another name"
                self.problems.append((place, f"[profile.{name}]: {told}"))
            own = Table(place, value, self.problems)
            self.profiles.append(self._profile(own, name) if isinstance(value, dict) else None)
        self._refuse_certain_overlaps()

    def _profile(self, table: Table, name: str) -> Profile | None:
        before = len(self.problems)
        matcher = _matcher(table)
        if len(self.problems) == before:
            self.matchers[name] = matcher
        driver = _driver(table)
        flavour = _flavour(table)
        if driver and flavour == "open" and branch(driver) < FIRST_OPEN_BRANCH:
            table.refuse(
                "flavour", f'"open" modules exist from branch {FIRST_OPEN_BRANCH} on; take "proprietary"'
            )
        gpus = table.optional_whole("gpus", 1, MAX_GPUS)
        if "gpus" not in table.values:
            table.refuse("gpus", "is missing; write how many GPUs each of these nodes has: gpus = 8")
        fabric = table.switch("fabric_manager", False)
        if "fabric_manager" not in table.values:
            told = "is missing; write fabric_manager = true where the nodes have NVSwitches, else false"
            table.refuse("fabric_manager", told)
        packages = _packages(table, driver, flavour, fabric)
        hardware = _hardware(table, gpus)
        images = _digests(table, "images", r"[A-Za-z0-9][A-Za-z0-9._+~-]*", "gsp_ga10x.bin")
        downloads = _digests(table, "downloads", r"[A-Za-z0-9][A-Za-z0-9._+~%:^-]*\.(?:deb|rpm)", "NAME.deb")
        bmc = _bmc(table)
        table.refuse_the_rest()
        if len(self.problems) > before or driver is None or flavour is None or gpus is None:
            return None
        return Profile(
            name, matcher, driver, flavour, gpus, fabric, packages, hardware, images, downloads, bmc
        )

    def _refuse_certain_overlaps(self) -> None:
        """Profiles that share nodes on any fleet: they name the same ones, or have the same matchers."""
        seen: list[tuple[str, Matcher, frozenset[str]]] = []
        for name, matcher in self.matchers.items():
            only_names = Matcher(nodes=matcher.nodes) == matcher
            names = matcher.names() if only_names else frozenset()
            for other, other_matcher, other_names in seen:
                both = names & other_names
                if both or matcher == other_matcher:
                    self.overlapping.add((other, name))
                if both:
                    self._overlap(name, "nodes", f"{folded(both)} stand in [profile.{other}] too")
                elif matcher == other_matcher:
                    self._overlap(name, "", f"is for the same nodes as [profile.{other}]")
            seen.append((name, matcher, names))

    def _overlap(self, name: str, key: str, told: str) -> None:
        place = ("profile", name, key) if key else ("profile", name)
        label = f"[profile.{name}] {key}" if key else f"[profile.{name}]"
        self.problems.append((place, f"{label}: {told}; a node takes one profile only"))

    def check_nodes(self, nodes: Sequence[NodeFacts] | None) -> None:
        """Refuse what does not fit this fleet; what cannot be told while a matcher is wrong is left out."""
        if nodes is None:
            return
        assignment = assign_by(self.matchers, nodes)
        shared: dict[tuple[str, ...], list[str]] = {}
        for overlap in assignment.overlaps:
            if overlap.profiles not in self.overlapping:  # these are told already
                shared.setdefault(overlap.profiles, []).append(overlap.node)
        for profiles, names in shared.items():
            others = " and ".join(f"[profile.{name}]" for name in profiles[:-1])
            told = f"matches {folded(names)}, as {others} does; a node takes one profile only: narrow one"
            self.problems.append((("profile", profiles[-1]), f"[profile.{profiles[-1]}]: {told}"))
        with_gpus = {node.name for node in nodes if has_gpus(node)}
        bare = [name for name in assignment.unmatched if name in with_gpus]
        if bare and self.matchers and len(self.matchers) == len(self.profiles):
            told = f"none matches {folded(bare)}; add a profile for them, or widen one"
            self.problems.append((("profile",), f"[profile]: {told}"))

    def finish(self) -> Manifest:
        """The manifest, or all that is wrong in the order of the file."""
        if self.problems:
            raise ManifestError(placed(self.problems, self.text, self.where))
        profiles = tuple(profile for profile in self.profiles if profile is not None)
        assert self.name is not None and self.created is not None and len(profiles) == len(self.profiles)
        return Manifest(self.name, self.previous, self.created, profiles, self.notes)


def _created(top: Table) -> datetime | None:
    value = top.take("created")
    hint = "write it without quotes and with the time zone: created = 2026-11-21T09:00:00Z"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if value is None:
        top.refuse("created", f"is missing; {hint}")
    elif isinstance(value, datetime):
        top.refuse("created", f"has no time zone; {hint}")
    else:
        given = printable(str(value)) if kind(value) == "a date or time" else kind(value)
        top.refuse("created", f"must be a date with a time, not {given}; {hint}")
    return None


def _matcher(table: Table) -> Matcher:
    matcher = Matcher(
        nodes=_hostlist(table),
        partitions=table.texts("partitions", _WORD, "the name of a partition", "gpu"),
        features=table.texts("features", _WORD, "one feature", "h100"),
        gres=table.texts("gres", _GRES, "a GRES", "gpu:h100"),
    )
    if not {"nodes", "partitions", "features", "gres"} & table.values.keys() and table.values:
        told = "says of no node that it is for it; give nodes, partitions, features or gres"
        table.problems.append((table.place, f"[{table.name}]: {told}"))
    return matcher


def _hostlist(table: Table) -> str:
    value = table.take("nodes")
    hint = 'write it like "gpu[01-16],login1"'
    if value is None:
        return ""
    if not isinstance(value, str):
        table.refuse("nodes", f"must be a hostlist in quotes, not {kind(value)}; {hint}")
        return ""
    try:
        if not _HOSTLIST.fullmatch(value) or not expand_hostlist(value):
            table.refuse("nodes", f"{shown(value)} is not a hostlist; {hint}")
            return ""
    except ParseError as error:
        table.refuse("nodes", f"{shown(value)} is not a hostlist: {error}; {hint}")
        return ""
    return value


def _driver(table: Table) -> str | None:
    driver = table.text("driver", r"[0-9.]+", "a driver version", "570.195.03", needed=True)
    if driver is not None and parse_driver_version(driver) is None:
        table.refuse("driver", f'no driver has the version {shown(driver)}; write it like "570.195.03"')
        return None
    return driver


def _flavour(table: Table) -> str | None:
    if "flavour" not in table.values:
        table.take("flavour")
        table.refuse("flavour", 'is missing; write flavour = "open" (Blackwell needs it) or "proprietary"')
        return None
    return table.one_of("flavour", FLAVOURS)


def _packages(table: Table, driver: str | None, flavour: str | None, fabric: bool) -> Packages:
    value = table.take("packages")
    if value is None:
        table.refuse("packages", f"is missing; write [{table.name}.packages] with apt, dnf or zypper in it")
        return Packages()
    own = Table((*table.place, "packages"), value, table.problems)
    pinned = {manager: _pinned(own, manager, driver, flavour) for manager in _VERSION_FORMS}
    modules = _modules(own, driver, flavour)
    if modules and "dnf" not in own.values:
        own.refuse("dnf_modules", "without packages for dnf; pin these too: a stream alone names no version")
    if isinstance(value, dict) and not any(key in own.values for key in _VERSION_FORMS):
        table.problems.append((
            own.place,
            f"[{own.name}]: pins no package; write apt, dnf or zypper = {{...}}",
        ))
    for manager, packages in pinned.items():
        if len(packages) < _size(own.values.get(manager)):
            continue  # what is wrong is told, and what it would have been cannot be judged
        have = [Package(_bare(one.name), one.version, "", "installed") for one in packages]
        if have and not any(map(driver_version_of, have)):
            own.refuse(manager, "no package of the driver is among these; pin those that bring it")
        elif have and fabric and fabric_manager(have) is None:
            told = "fabric_manager = true, but its package is not among these; pin nvidia-fabricmanager too"
            own.refuse(manager, told)
    own.refuse_the_rest()
    return Packages(pinned["apt"], pinned["dnf"], modules, pinned["zypper"])


def _pinned(
    packages: Table, manager: str, driver: str | None, flavour: str | None
) -> tuple[PinnedPackage, ...]:
    value = packages.take(manager)
    if value is None:
        return ()
    like = f'{manager} = {{ "NAME" = "{_VERSION_EXAMPLES[manager]}" }}'
    table = Table((*packages.place, manager), value, packages.problems, like=like)
    if value == {}:
        packages.refuse(manager, f"pins nothing; remove it, or write {like}")
    found = []
    for name in table.values:
        if not re.fullmatch(_NAME_FORMS[manager], name):
            table.take(name)
            table.refuse(name, f"is no package name for {manager}; correct it")
            continue
        version = table.text(
            name, _VERSION_FORMS[manager], _VERSION_WHATS[manager], _VERSION_EXAMPLES[manager]
        )
        if version is not None:
            found.append(PinnedPackage(name, version))
            _contradictions(table, found[-1], driver, flavour)
    return tuple(found)


def _contradictions(table: Table, package: PinnedPackage, driver: str | None, flavour: str | None) -> None:
    """Refuse what name and version of a driver package show to be of another driver, or flavour."""
    name = _bare(package.name)
    if not is_driver_package(name):
        return
    version = driver_version_of(Package(name, package.version, "", "installed"))
    in_name = find_driver_version(name)
    branch_in_name = _BRANCH_IN_NAME.search(name)
    if driver is not None:
        if version not in {None, driver}:
            table.refuse(package.name, f"is of driver {version}, the profile of {driver}; take one of them")
        elif in_name not in {None, driver}:
            table.refuse(package.name, f"is for driver {in_name}, the profile for {driver}; take one of them")
        elif branch_in_name and int(branch_in_name[1]) != branch(driver):
            told = f"is of branch {branch_in_name[1]}, driver {driver} of {branch(driver)}; take one of them"
            table.refuse(package.name, told)
    if flavour is not None and flavour_of(name) not in {None, flavour}:
        told = f'is {flavour_of(name)}, the profile\'s flavour is "{flavour}"; take one of them'
        table.refuse(package.name, told)


def flavour_of(package: str) -> str | None:
    """The flavour that a package's name shows."""
    if "open" in package.split("-"):
        return "open"
    return "proprietary" if _PROPRIETARY.fullmatch(package) else None


def _size(value: object) -> int:
    return len(value) if isinstance(value, dict) else 0


def _bare(package: str) -> str:
    """A package's name without apt's architecture."""
    return package.partition(":")[0]


def _modules(packages: Table, driver: str | None, flavour: str | None) -> tuple[str, ...]:
    modules = packages.texts("dnf_modules", _MODULE, "a module and its stream", "nvidia-driver:570-open")
    streams: dict[str, str] = {}
    for entry in modules:
        module, _, stream = entry.partition(":")
        if streams.setdefault(module, stream) != stream:
            told = f"{module} has one stream at a time, not {streams[module]} and {stream}; remove one"
            packages.refuse("dnf_modules", told)
        if module != "nvidia-driver":
            continue
        of_branch = re.match(r"([3-9][0-9]{2})(?=-|$)", stream)
        if driver is not None and of_branch and int(of_branch[1]) != branch(driver):
            told = f"{shown(entry)} is of branch {of_branch[1]}, driver {driver} of {branch(driver)}"
            packages.refuse("dnf_modules", f"{told}; take one of them")
        of_flavour = "open" if "open" in stream.split("-") else "proprietary"
        if flavour is not None and of_flavour != flavour:
            told = f'{shown(entry)} is {of_flavour}, the profile\'s flavour is "{flavour}"; take one of them'
            packages.refuse("dnf_modules", told)
    return modules


def _hardware(table: Table, gpus: int | None) -> Hardware:
    hardware = Hardware(
        vbios=table.text(
            "vbios", r"[0-9A-Fa-f]{2}(?:\.[0-9A-Fa-f]{2}){4}", "a VBIOS version", "96.00.89.00.01"
        ),
        inforom=table.text(
            "inforom", r"[A-Z0-9]{4,6}(?:\.[0-9]{2,4}){3}", "an InfoROM version", "G520.0200.00.05"
        ),
        cuda=table.text("cuda", r"[0-9]{1,2}\.[0-9]{1,2}", "a CUDA version", "12.8"),
        nic_firmware=table.text(
            "nic_firmware", r"[0-9]+(?:\.[0-9]+){2,3}", "a firmware version", "28.43.2566"
        ),
        pcie_width=_choice(table, "pcie_width", (1, 2, 4, 8, 16)),
        pcie_generation=_choice(table, "pcie_generation", (1, 2, 3, 4, 5, 6, 7)),
        topology=table.text("topology", r"(?s).*", "a text", "what nvidia-smi topo -m says"),
    )
    if hardware.topology is not None:
        rows = {int(row[:6]) for row in _TOPOLOGY_ROW.findall(hardware.topology)}
        if not rows:
            table.refuse("topology", "has no row for a GPU; give what `nvidia-smi topo -m` says, between '''")
        elif gpus is not None and len(rows) != gpus:
            table.refuse("topology", f"has rows for {len(rows)} GPUs, gpus = {gpus}; take one of them")
    return hardware


def _choice(table: Table, key: str, choices: tuple[int, ...]) -> int | None:
    value = table.optional_whole(key, choices[0], choices[-1])
    if value is not None and value not in choices:
        table.refuse(key, f"there is no {value}; take one of {', '.join(map(str, choices))}")
        return None
    return value


def _bmc(table: Table) -> tuple[FirmwarePin, ...]:
    value = table.take("bmc")
    if value is None:
        return ()
    own = Table((*table.place, "bmc"), value, table.problems)
    if value == {}:
        told = 'pins nothing; remove it, or write "HGX_FW_BMC_0" = "24.10-1"'
        table.problems.append((own.place, f"[{own.name}]: {told}"))
    found = []
    for component in own.values:
        version = own.text(component, _FIRMWARE, "one exact version", "24.10-1")
        if not _COMPONENT.fullmatch(component):
            told = "is no id of the BMC's firmware inventory, nor one with * or ? in it; take it from there"
            own.refuse(component, told)
        elif not component.strip("*?"):
            own.refuse(component, "is for every component; name them, with * and ? for parts of the name")
        elif version is not None:
            found.append(FirmwarePin(component, version))
    _refuse_two_versions(own, found)
    return tuple(found)


def _refuse_two_versions(table: Table, pins: Sequence[FirmwarePin]) -> None:
    """Refuse a component that is named with one version, and covered by a pattern with another."""
    for pin in pins:
        if {"*", "?"} & set(pin.component):
            continue
        other = next((one for one in pins if one.covers(pin.component) and one.version != pin.version), None)
        if other is not None:
            told = f"is {shown(pin.version)}, but {other.component} covers it with {shown(other.version)}"
            table.refuse(pin.component, f"{told}; take one of them")


def _digests(table: Table, key: str, form: str, like: str) -> tuple[FileDigest, ...]:
    value = table.take(key)
    if value is None:
        return ()
    own = Table((*table.place, key), value, table.problems)
    found = []
    for name, digest in own.values.items():
        if not re.fullmatch(form, name):
            own.refuse(name, f'is not the name of such a file, without its folder; write it like "{like}"')
        elif not isinstance(digest, str):
            own.refuse(name, f"must be a SHA-256 in quotes, not {kind(digest)}; take what sha256sum says")
        elif not _SHA256.fullmatch(digest):
            told = f"{shown(digest)} is not a SHA-256: 64 small hexadecimal digits; take what sha256sum says"
            own.refuse(name, told)
        else:
            found.append(FileDigest(name, digest))
    return tuple(found)
