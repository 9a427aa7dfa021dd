"""From a BMC's answers to an inventory, through an injected client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from fault_bmc import INVENTORY, tree
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.reading import Absent, Known, Reading, Unknown
from slurm_gsp.redfish.model import Answer, Component, Inventory
from slurm_gsp.redfish.read import BmcError, Response, read_bmc

ROOT = "/redfish/v1/"
EXPANDED = f"{INVENTORY}?$expand=.($levels=1)"


class FakeClient:
    """Answers from a table: a resource, a whole response, or an exception to raise."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, address: str, seconds: float) -> FakeClient:
        self.asked.append(f"open {address} {seconds:g}")
        return self

    def root(self) -> Response:
        return self._answer(ROOT)

    def login(self) -> None:
        self.asked.append("login")
        self._answer("login")

    def get(self, path: str) -> Response:
        self.asked.append(path)
        return self._answer(path)

    def close(self) -> None:
        self.asked.append("close")

    def _answer(self, path: str) -> Response:
        answer = self.answers.get(path, Response(404, ""))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Response) else Response(200, json.dumps(answer))


def read(answers: Mapping[str, Any]) -> Answer:
    client = FakeClient(answers)
    answer = read_bmc(client, "https://bmc", 7)
    assert (client.asked[0], client.asked[-1]) == ("open https://bmc 7", "close")
    return answer


def unknown(why: str) -> Unknown:
    return Unknown("https://bmc", why)


def with_member(**member: Any) -> dict[str, Any]:
    return {**tree(A="1"), f"{INVENTORY}/A": member}


def version(**member: Any) -> Reading[str]:
    answer = read(with_member(**member))
    assert isinstance(answer, Known)
    return answer.value.components[0].version


def test_links_are_followed_not_guessed() -> None:
    answers = {
        ROOT: {"UpdateService": {"@odata.id": "/redfish/v1/Up"}},
        "/redfish/v1/Up": {"FirmwareInventory": {"@odata.id": "/redfish/v1/Fw"}},
        "/redfish/v1/Fw": {"Members": [{"@odata.id": "/redfish/v1/Fw/A%20B"}]},
        "/redfish/v1/Fw/A%20B": {"Version": " 1.0 "},
    }
    component = Component("A B", None, Known("1.0", "/redfish/v1/Fw/A%20B"))
    assert read(answers) == Known(Inventory((component,)), "https://bmc")


def test_an_empty_inventory_is_known_to_be_empty() -> None:
    assert read(tree()) == Known(Inventory(()), "https://bmc")


def test_versions_are_known_absent_or_unknown() -> None:
    path = f"{INVENTORY}/A"
    assert version(Version="1") == Known("1", path)
    assert version(Version=None) == version(Version=" ") == version(Name="A") == Absent(path)
    assert version(Version=1.5) == Unknown(path, f"{path}: its version is no text: '1.5'")


def test_what_else_is_said_is_taken_where_it_is_of_its_kind() -> None:
    answer = read(
        with_member(Name=7, Version="1", Updateable="yes", Status={"Health": None, "State": "Absent"})
    )
    assert isinstance(answer, Known)
    path = f"{INVENTORY}/A"
    assert answer.value.components == (Component("A", None, Known("1", path), None, None, "Absent"),)
    answer = read(with_member(Version="1", Status="fine"))
    assert isinstance(answer, Known) and answer.value.components[0].state is None


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_component_that_cannot_be_read_leaves_the_others(status: int) -> None:
    answer = read({**tree(A="1", B="2"), f"{INVENTORY}/A": Response(status, "")})
    assert isinstance(answer, Known)
    first, second = answer.value.components
    assert isinstance(first.version, Unknown) and f"HTTP {status}" in first.version.why
    assert second.version == Known("2", f"{INVENTORY}/B")


def test_a_connection_that_ends_leaves_nothing() -> None:
    answer = read({**tree(A="1", B="2"), f"{INVENTORY}/B": BmcError("took longer than 7 s")})
    assert answer == unknown("took longer than 7 s")


def test_a_refused_login_is_the_end() -> None:
    client = FakeClient({**tree(A="1"), "login": BmcError("no")})
    assert read_bmc(client, "https://bmc", 7) == unknown("no")
    assert client.asked == ["open https://bmc 7", "login", "close"]


def test_no_connection() -> None:
    def opened(address: str, seconds: float) -> FakeClient:
        raise BmcError("nothing listens there")

    assert read_bmc(opened, "https://bmc", 7) == unknown("nothing listens there")


def test_what_nobody_thought_of_is_unknown_too() -> None:
    told = "its answer cannot be understood (ZeroDivisionError)"
    assert read({**tree(A="1"), INVENTORY: ZeroDivisionError("secret")}) == unknown(told)


def test_a_component_twice() -> None:
    members = [{"@odata.id": f"{INVENTORY}/A"}, {"@odata.id": f"{INVENTORY}/A/"}]
    answers = {**tree(A="1"), INVENTORY: {"Members": members}, f"{INVENTORY}/A/": {"Version": "2"}}
    assert read(answers) == unknown("the inventory names A twice")


# --- pages and expansion ------------------------------------------------------------------------------------


def paged(*pages: list[str], last: object = None) -> dict[str, Any]:
    answers = tree(**{name: "1" for page in pages for name in page})
    for number, page in enumerate(pages):
        path = INVENTORY if number == 0 else f"{INVENTORY}?$skip={number}"
        answers[path] = {"Members": [{"@odata.id": f"{INVENTORY}/{name}"} for name in page]}
        following = f"{INVENTORY}?$skip={number + 1}" if number < len(pages) - 1 else last
        if following is not None:
            answers[path]["Members@odata.nextLink"] = following
    return answers


def test_all_pages_are_read() -> None:
    answer = read(paged(["A", "B"], ["C"], []))
    assert isinstance(answer, Known)
    assert [component.id for component in answer.value.components] == ["A", "B", "C"]


def test_a_page_that_cannot_be_read_makes_all_unknown() -> None:
    answers = paged(["A"], last=f"{INVENTORY}?$skip=9")
    assert read(answers) == unknown(f"{INVENTORY}?$skip=9: HTTP 404, is not there")
    assert read(paged(["A"], last=7)) == unknown(f"{INVENTORY}: the next page has no Redfish path: '7'")


def test_pages_without_end() -> None:
    answers = {**tree(), INVENTORY: {"Members": [], "Members@odata.nextLink": INVENTORY}}
    assert read(answers) == unknown(f"{INVENTORY}: does not end after 64 pages")


def expanding(expanded: object, **features: Any) -> dict[str, Any]:
    answers = {**tree(A="1"), EXPANDED: expanded}
    answers[ROOT]["ProtocolFeaturesSupported"] = {"ExpandQuery": {"NoLinks": True, "Levels": True} | features}
    return answers


def test_members_in_one_answer() -> None:
    answers = expanding({"Members": [{"@odata.id": f"{INVENTORY}/A", "Id": "A", "Version": "9"}]})
    client = FakeClient(answers)
    answer = read_bmc(client, "https://bmc", 7)
    assert isinstance(answer, Known)
    assert answer.value.components[0].version == Known("9", f"{INVENTORY}/A")
    assert client.asked[-2:] == [EXPANDED, "close"]


@pytest.mark.parametrize(
    "expanded",
    [Response(400, ""), Response(200, "no JSON"), {"Members": [{"@odata.id": f"{INVENTORY}/A"}]}],
    ids=["refused", "broken", "links only"],
)
def test_a_bmc_that_expands_less_than_it_claims(expanded: object) -> None:
    answer = read(expanding(expanded))
    assert isinstance(answer, Known)
    assert answer.value.components[0].version == Known("1", f"{INVENTORY}/A")


@pytest.mark.parametrize("features", [{"NoLinks": False}, {"Levels": "yes"}])
def test_expansion_is_asked_only_of_those_that_can(features: dict[str, Any]) -> None:
    client = FakeClient(expanding(RuntimeError(), **features))
    assert isinstance(read_bmc(client, "https://bmc", 7), Known)
    assert EXPANDED not in client.asked


# --- anything at all ----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(f"{INVENTORY}/A"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["@odata.id", "Members", "Version", "Id", "Status", "UpdateService"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([ROOT, "/redfish/v1/UpdateService", INVENTORY, f"{INVENTORY}/A"]), JSON)
def test_any_json_is_an_inventory_or_unknown(path: str, value: object) -> None:
    answer = read({**tree(A="1"), path: value})
    assert isinstance(answer, Known | Unknown)
    assert not (isinstance(answer, Unknown) and "cannot be understood" in answer.why)


@given(st.text())
def test_any_text_is_unknown_or_an_empty_answer(text: str) -> None:
    answer = read({**tree(A="1"), INVENTORY: Response(200, text)})
    assert isinstance(answer, Unknown) and answer.why.isascii()
