"""Chats in the page, in a real browser: a person shows an image, asks, watches, stops, gives what functions returned."""

from pathlib import Path

from pipelines.jobs import ChatJob, ImagePart, PastCall
from pipelines.tools.asked import ToolChoice
from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from stages.contract.errors import QueueFull
from stages.llm.messages import ConstraintKind, GenerationEnd, TokenDelta
from tests.pipelines.ingress.chromium import Page
from tests.pipelines.ingress.fakes import FakeService, Gate, Trouble
from tests.pipelines.ingress.playground.pages import IN_A_BROWSER, choose, count, fill, text
from tests.pipelines.ingress.surface import png

pytestmark = IN_A_BROWSER

CALLS: tuple[AnswerEvent, ...] = (
    TokenDelta("Let me see.", 3),
    ToolCallBegun(0, "call_1", "get_weather"),
    ToolArgumentsDelta(0, '{"city": "Zür'),
    ToolArgumentsDelta(0, 'ich", "days": [1, 2]}'),
    GenerationEnd("tool_calls", 9),
)


def last_chat(service: FakeService) -> ChatJob:
    job = service.jobs[-1]
    assert isinstance(job, ChatJob)
    return job


async def test_an_image_is_shown_and_asked_about_and_the_receipt_drawn(
    page: Page, service: FakeService, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(12, 10))
    await page.choose_file("#image", image)
    await page.until("!document.querySelector('#thumb').hidden")
    await page.type("#question", "what is it")
    await page.press("Enter")
    await page.until("document.querySelector('#see-receipt table')")
    assert await text(page, ".turn.assistant .said") == "You said: [12x10] what is it"
    assert "4 tokens in, 0 of them remembered · 6 out" in await text(page, "#see-note")
    assert await page.run("document.querySelectorAll('#see-receipt tbody tr').length") == 2
    assert "vision encoder" in await text(page, "#see-receipt")
    assert len(service.jobs) == 1
    assert isinstance(last_chat(service).messages[0].parts[0], ImagePart)


async def test_the_conversation_goes_on_with_the_image_in_it(page: Page, service: FakeService) -> None:
    for question in ("first", "second"):
        await page.type("#question", question)
        await page.press("Enter")
        await page.until(
            f"document.querySelectorAll('#see-receipt table').length && {question!r} && !document.querySelector('.writing')"
        )
    assert [message.role for message in last_chat(service).messages] == ["user", "assistant", "user"]


async def test_stopping_an_answer_stops_the_work_and_keeps_what_was_said(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=4)
    await page.type("#question", "one two three")
    await page.click("#ask")
    await page.until("document.querySelector('.turn.assistant').textContent.includes('one')")
    await page.press("Escape")
    await service.gate.cancelled.wait()
    await page.until("document.querySelector('#see-note').textContent === 'Stopped.'")
    assert await text(page, ".turn.assistant .said") == "You said: one"
    assert await page.run("document.querySelector('#ask').disabled") is False


async def test_an_error_is_told_and_the_question_is_given_back(page: Page, service: FakeService) -> None:
    service.trouble = Trouble(QueueFull("256 requests wait already"))
    await page.type("#question", "hello")
    await page.click("#ask")
    await page.until("!document.querySelector('#see-error').hidden")
    assert await text(page, "#see-error") == "256 requests wait already"
    assert await page.run("document.querySelector('#question').value") == "hello"
    page.problems.clear()  # the browser itself notes every 429


async def ask(page: Page, question: str) -> None:
    await fill(page, "#question", question)
    await page.press("Enter")


async def answered(page: Page, turns: int) -> None:
    """Waits until there are so many answers, the last being whole."""
    await page.until(
        f"document.querySelectorAll('.turn.assistant').length === {turns} && !document.querySelector('.writing')"
        " && document.querySelector('#see-receipt table')"
    )


async def test_a_call_grows_as_it_comes_and_the_answer_goes_on_with_what_it_returned(page: Page, service: FakeService) -> None:
    service.script, service.gate = CALLS, Gate(after=4)
    await choose(page, "#tool-choice", "auto")
    await ask(page, "weather?")
    await page.until("document.querySelector('.call pre')?.textContent.includes('Zür')")
    assert await text(page, ".call") == 'Calls get_weather\n\n{\n  "city": "Zür'
    service.gate.open.set()
    await answered(page, 1)
    assert await text(page, ".call pre") == '{\n  "city": "Zürich",\n  "days": [\n    1,\n    2\n  ]\n}'
    tools = last_chat(service).tools
    assert tools is not None
    assert (tools.functions[0].name, tools.choice) == ("get_weather", ToolChoice.AUTO)
    service.script = ()
    await page.type(".call textarea", "rain")
    await page.click(".results button")
    await answered(page, 2)
    _, called, returned = last_chat(service).messages
    assert called.calls == (PastCall("call_1", "get_weather", '{"city": "Zürich", "days": [1, 2]}'),)
    assert (returned.role, returned.call_id, spoken(returned)) == ("tool", "call_1", "rain")
    assert "Returned" in await text(page, ".call")


def spoken(message: object) -> str:
    return "".join(part.text for part in getattr(message, "parts", ()))


async def test_a_result_that_fails_to_be_given_is_asked_for_again_and_a_call_that_must_be_is_asked_for_once(
    page: Page, service: FakeService
) -> None:
    service.script = CALLS
    await choose(page, "#tool-choice", "required")
    await ask(page, "weather?")
    await answered(page, 1)
    service.script, service.trouble = (), Trouble(QueueFull("256 requests wait already"))
    await page.type(".call textarea", "rain")
    await page.click(".results button")
    await page.until("!document.querySelector('#see-error').hidden")
    assert await page.run("document.querySelector('.call textarea').value") == "rain"
    service.trouble = None
    await ask(page, "And tomorrow?")  # what is in the field is given with it
    await answered(page, 2)
    assert [message.role for message in last_chat(service).messages] == ["user", "assistant", "tool", "user"]
    assert last_chat(service).tools is not None  # for a new question
    assert service.jobs[1].tools is None  # type: ignore[union-attr]  # while going on
    page.problems.clear()  # the browser itself notes every 429


async def test_thoughts_are_folded_apart_from_the_answer_and_given_back(page: Page, service: FakeService) -> None:
    service.script = (ReasoningDelta("Rain is wet.", 4), TokenDelta("Take a coat.", 4), GenerationEnd("stop", 8))
    await ask(page, "weather?")
    await answered(page, 1)
    assert await text(page, ".turn.assistant .said") == "Take a coat."
    assert await page.run("document.querySelector('.thoughts').open") is False
    await page.click(".thoughts summary")
    assert await text(page, ".thoughts") == "Thoughts\nRain is wet."
    assert "8 out · 4 of them thought" in await text(page, "#see-note")
    service.script = ()
    await ask(page, "why")
    await answered(page, 2)
    assert last_chat(service).messages[1].reasoning == "Rain is wet."


async def test_json_is_laid_out_as_it_was_written_and_checked_against_its_schema(page: Page, service: FakeService) -> None:
    await choose(page, "#answer-form", "json_schema")
    await page.click("#see-settings summary")
    await fill(
        page, "#schema", '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 2}}, "required": ["n", "m"]}'
    )
    service.script = (TokenDelta('{"n":12345678901234567890}', 4), GenerationEnd("stop", 4))
    await ask(page, "count")
    await answered(page, 1)
    assert await text(page, ".turn.assistant .said") == '{\n  "n": 12345678901234567890\n}'
    faults = "JSON, not of the schema: the answer lacks m; the answer.n must be at most 2."
    assert await text(page, ".verdict") == faults
    constraint = last_chat(service).sampling.constraint
    assert constraint is not None
    assert constraint.kind is ConstraintKind.JSON_SCHEMA
    service.script = (TokenDelta('{"n":1,"m"', 4), GenerationEnd("length", 4))
    await ask(page, "count")
    await answered(page, 2)
    assert await text(page, ".turn:last-child .verdict") == "No whole JSON: cut at the longest answer."


async def test_a_schema_that_is_no_json_is_told_before_anything_is_asked(page: Page, service: FakeService) -> None:
    await choose(page, "#answer-form", "json_schema")
    await page.click("#see-settings summary")
    await fill(page, "#schema", "{")
    await ask(page, "count")
    await page.until("!document.querySelector('#see-error').hidden")
    assert (await text(page, "#see-error")).startswith("Schema is no JSON: ")
    assert await page.run("document.activeElement.id") == "schema"
    assert await page.run("document.querySelector('#question').value") == "count"
    assert service.jobs == []


async def test_an_answer_is_checked_by_every_keyword_that_is_not_named_as_unseen(page: Page) -> None:
    script = """import('/playground/see/schema_check.js').then(({ check }) => [
      check({ a: [1, "x"] }, { properties: { a: { items: { $ref: "#/$defs/n" } } }, $defs: { n: { type: "integer" } } }),
      check({ a: 1 }, { type: "object", additionalProperties: false }),
      check("b", { anyOf: [{ const: "a" }, { enum: ["c"] }], format: "date" }),
      check(1.5, { oneOf: [{ type: "number" }, { minimum: 1 }] }),
      check({}, { $ref: "#" }).unseen.length,
    ])"""
    elements, unwanted, neither, both, endless = await page.run(script)
    assert elements["faults"] == ["the answer.a[1] must be integer"]
    assert unwanted["faults"] == ["the answer.a must not be there"]
    assert neither == {"faults": ["the answer is of 0 forms of anyOf"], "unseen": ["format"]}
    assert both["faults"] == ["the answer is of 2 forms of oneOf"]
    assert endless == 1


async def test_a_new_conversation_begun_while_an_answer_comes_has_nothing_of_it(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=3)
    await ask(page, "one two three")
    await page.until("document.querySelector('.turn.assistant')?.textContent.includes('said')")
    await page.click("#forget")
    await service.gate.cancelled.wait()
    service.gate = None
    await ask(page, "four")
    await answered(page, 1)
    assert len(last_chat(service).messages) == 1
    assert await count(page, ".turn") == 2
