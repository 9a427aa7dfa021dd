"""Reading one BMC's firmware inventory, through a client that is handed in.

From the service root over UpdateService and FirmwareInventory to its members, by the links that the BMC
gives. What a BMC answers may be anything; whatever is not an inventory ends as unknown with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias
from urllib.parse import unquote

from slurm_gsp.core.reading import Absent, Known, Reading, Unknown
from slurm_gsp.redfish.model import Answer, Component, Inventory

ROOT: Final = "/redfish/v1/"
MAX_MEMBERS: Final = 1024
"""Servers with eight GPUs list about a hundred."""
MAX_PAGES: Final = 64
EXPAND: Final = "?$expand=.($levels=1)"
"""Members with their content in one answer, where the BMC says that it can."""

_PATH: Final = re.compile(r"/redfish/v1/[!-~]{1,512}")
_WORDS: Final[Mapping[int, str]] = {
    401: "user and password are not accepted",
    403: "this user may not read it",
    404: "is not there",
    503: "the BMC is busy",
}
_SHOWN: Final = 60
Object: TypeAlias = Mapping[str, object]


class BmcError(Exception):
    """The BMC cannot be read any further; the message says why."""


class AnswerError(BmcError):
    """One answer is of no use; the next one may be."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer: its status, and the text of its body."""

    status: int
    text: str


class Client(Protocol):
    """One connection to one BMC, bounded in time; BmcError where it does not come to an answer."""

    def root(self) -> Response:
        """The service root, which needs no login."""

    def login(self) -> None:
        """Log in; BmcError where the BMC refuses."""

    def get(self, path: str) -> Response:
        """Read one path."""

    def close(self) -> None:
        """Log out, and close whatever is open. Raises nothing."""


Open: TypeAlias = Callable[[str, float], Client]
"""From an address and the seconds that there are to a client; BmcError where there is no connection."""


def read_bmc(open_client: Open, address: str, seconds: float) -> Answer:
    """The inventory of the BMC at this address. Never raises: whatever goes wrong is the reason."""
    try:
        client = open_client(address, seconds)
        try:
            return Known(read_inventory(client), address)
        finally:
            client.close()
    except BmcError as error:
        return Unknown(address, str(error))
    except Exception as error:  # whatever a BMC makes of the code below is about this BMC alone
        return Unknown(address, f"its answer cannot be understood ({type(error).__name__})")


def read_inventory(client: Client) -> Inventory:
    """The inventory; BmcError where there is none to be had."""
    first = client.root()
    client.login()
    root = _object(first, ROOT) if first.status != 401 else _fetch(client, ROOT)
    service = _link(root, "UpdateService", "the BMC has no UpdateService")
    inventory = _link(_fetch(client, service), "FirmwareInventory", "the BMC lists no firmware")
    found: dict[str, Component] = {}
    for path, member in _members(client, inventory, expand=_can_expand(root)):
        component = _component(path, member) if _is_whole(member) else _read_component(client, path)
        if component.id in found:
            raise BmcError(f"the inventory names {component.id} twice")
        if len(found) == MAX_MEMBERS:
            raise BmcError(f"{inventory}: lists more than {MAX_MEMBERS} components")
        found[component.id] = component
    return Inventory(tuple(found.values()))


def _members(client: Client, path: str, *, expand: bool) -> Iterator[tuple[str, Object]]:
    """Every member with its path, from all pages."""
    page = _first_page(client, path, expand=expand)
    for number in range(MAX_PAGES):
        members = page.get("Members")
        if not isinstance(members, list):
            raise BmcError(f"{path}: has no list of members")
        for member in members:
            yield _path_of(member, path), member
        if "Members@odata.nextLink" not in page:
            return
        if number < MAX_PAGES - 1:
            page = _fetch(client, _checked(page["Members@odata.nextLink"], f"{path}: the next page"))
    raise BmcError(f"{path}: does not end after {MAX_PAGES} pages")


def _first_page(client: Client, path: str, *, expand: bool) -> Object:
    if expand:
        try:
            return _fetch(client, path + EXPAND)
        except AnswerError:  # claimed, and not done: read the members one by one
            pass
    return _fetch(client, path)


def _can_expand(root: Object) -> bool:
    features = root.get("ProtocolFeaturesSupported")
    expand = features.get("ExpandQuery") if isinstance(features, dict) else None
    return isinstance(expand, dict) and expand.get("NoLinks") is True and expand.get("Levels") is True


def _is_whole(member: Object) -> bool:
    """Whether a member stands there itself, and not only its link."""
    return "Id" in member or "Version" in member


def _path_of(member: object, where: str) -> str:
    if not isinstance(member, dict):
        raise BmcError(f"{where}: lists what is no component")
    return _checked(member.get("@odata.id"), f"{where}: a component")


def _checked(path: object, what: str) -> str:
    """A path that the BMC named: one of Redfish's, on this BMC."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise BmcError(f"{what} has no Redfish path: {_shown(str(path))}")
    return path


def _link(resource: Object, name: str, missing: str) -> str:
    link = resource.get(name)
    if not isinstance(link, dict) or "@odata.id" not in link:
        raise BmcError(missing)
    return _checked(link["@odata.id"], name)


def _fetch(client: Client, path: str) -> Object:
    return _object(client.get(path), path)


def _object(response: Response, path: str) -> Object:
    """The JSON object in an answer; AnswerError for everything else."""
    if response.status != 200:
        words = _WORDS.get(response.status)
        raise AnswerError(f"{path}: HTTP {response.status}" + (f", {words}" if words else ""))
    try:
        value: object = json.loads(response.text)
    except (ValueError, RecursionError):
        raise AnswerError(f"{path}: is no JSON: {_shown(response.text)}") from None
    if not isinstance(value, dict):
        raise AnswerError(f"{path}: is no object: {_shown(response.text)}")
    return value


def _read_component(client: Client, path: str) -> Component:
    """One component; one that cannot be read is unknown by itself, and the others are not."""
    try:
        return _component(path, _fetch(client, path))
    except AnswerError as error:
        return Component(_id(path), None, Unknown(path, str(error)))


def _component(path: str, member: Object) -> Component:
    status = member.get("Status")
    status = status if isinstance(status, dict) else {}
    updateable = member.get("Updateable")
    return Component(
        id=_id(path),
        name=_text(member.get("Name")),
        version=_version(path, member.get("Version")),
        updateable=updateable if isinstance(updateable, bool) else None,
        health=_text(status.get("Health")),
        state=_text(status.get("State")),
    )


def _version(path: str, value: object) -> Reading[str]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return Absent(path)
    if isinstance(value, str):
        return Known(value.strip(), path)
    return Unknown(path, f"{path}: its version is no text: {_shown(str(value))}")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _id(path: str) -> str:
    return unquote(path.partition("?")[0].rstrip("/").rpartition("/")[2])


def _shown(text: str) -> str:
    """The start of what a BMC said, for a message."""
    line = "".join(char if " " <= char <= "~" else "?" for char in " ".join(text[:200].split()))
    return repr(line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "...")
