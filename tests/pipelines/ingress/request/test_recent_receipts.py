"""Receipts of the latest requests: how many, and whose."""

import hashlib

from pipelines.ingress.request.recent_receipts import RecentReceipts
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.schemas.receipt import Receipt
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.surface import chat_body, client_for


def receipt(name: str, total_s: float = 0.0) -> Receipt:
    return Receipt(request_id=name, total_s=total_s, device_s=0.0, stages=[])


def test_the_oldest_makes_way() -> None:
    recent = RecentReceipts(max_kept=2)
    for name in ("a", "b", "a", "c"):
        recent.keep("ada", receipt(name))
    assert [recent.find(name, "ada", of_all=False) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_a_tenant_is_shown_its_own_and_an_operator_everybodys() -> None:
    recent = RecentReceipts()
    recent.keep("ada", receipt("a", 1.0))
    recent.keep("bob", receipt("a", 2.0))
    recent.keep("bob", receipt("b", 3.0))
    assert recent.find("a", "ada", of_all=False) == receipt("a", 1.0)
    assert recent.find("b", "ada", of_all=False) is None
    assert recent.find("a", "bob", of_all=True) == receipt("a", 2.0)
    assert recent.find("a", "eve", of_all=True) == receipt("a", 2.0)  # the latest
    assert recent.find("b", "eve", of_all=True) == receipt("b", 3.0)


async def test_an_answers_receipt_can_be_asked_for_again() -> None:
    async with client_for(FakeService()) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(), headers={"x-request-id": "mine"})
        again = await client.get("/v1/receipts/mine")
        assert again.json() == answer.json()["triptych"]
        assert (await client.get("/v1/receipts/another")).status_code == 404


async def test_a_receipt_is_not_for_another_tenant() -> None:
    keys = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("ada", "bob")}
    async with client_for(FakeService(), IngressSettings(keys=keys)) as client:
        headers = {"authorization": "Bearer ada", "x-request-id": "mine"}
        await client.post("/v1/chat/completions", json=chat_body(), headers=headers)
        codes = [
            (await client.get("/v1/receipts/mine", headers=given)).status_code
            for given in ({"authorization": "Bearer ada"}, {"authorization": "Bearer bob"}, {})
        ]
    assert codes == [200, 404, 401]
