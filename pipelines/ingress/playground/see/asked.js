// What the settings of a chat ask for: the form of the answer, and which functions may be called. Knows no conversation.

import { $ } from "../dom.js";

const SCHEMA = {
  type: "object",
  properties: {
    objects: {
      type: "array",
      items: {
        type: "object",
        properties: { shape: { type: "string", maxLength: 20 }, colour: { enum: ["red", "green", "blue", "yellow", "black", "white", "other"] } },
        required: ["shape", "colour"],
        additionalProperties: false,
      },
      maxItems: 3,
    },
    background: { type: "string", maxLength: 20 },
  },
  required: ["objects", "background"],
  additionalProperties: false,
};
const TOOLS = [
  {
    name: "get_weather",
    description: "Tells the weather of a place.",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 40 }, unit: { enum: ["celsius", "fahrenheit"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
];

// What is written in a field is no JSON of the kind that it is for.
export class FieldFault extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

export function startAsked() {
  $("schema").value = JSON.stringify(SCHEMA, null, 2);
  $("tools").value = JSON.stringify(TOOLS, null, 2);
  $("answer-form").addEventListener("change", showFields);
  $("tool-choice").addEventListener("change", showFields);
  for (const id of ["schema", "tools"]) $(id).addEventListener("input", () => $(id).removeAttribute("aria-invalid"));
  showFields();
}

const CHOICES = { auto: "it may call", required: "it must call, then answer" };

// `choices`: what the chosen model takes as tool_choice.
export function allowCalls(choices) {
  const before = $("tool-choice").value;
  $("tool-choice").replaceChildren(new Option("none", ""), ...(choices ?? []).map((choice) => new Option(CHOICES[choice] ?? choice, choice)));
  $("tool-choice").value = choices?.includes(before) ? before : "";
  $("tool-choice-field").hidden = !choices?.length;
  showFields();
}

function showFields() {
  $("schema-field").hidden = $("answer-form").value !== "json_schema";
  $("tools-field").hidden = !$("tool-choice").value;
}

// Fields of a request. Raises FieldFault. `isGoingOn`: the results of calls are given, so a call that had to be has been.
export function asked(isGoingOn) {
  const fields = {
    temperature: Number($("temperature").value || 0),
    max_tokens: Number($("max-tokens").value) || undefined,
    response_format: responseFormat(),
  };
  const choice = $("tool-choice").value;
  if (!choice) return fields;
  return { ...fields, tools: tools(), tool_choice: isGoingOn && choice === "required" ? "none" : choice };
}

function responseFormat() {
  const type = $("answer-form").value;
  if (type === "json_object") return { type };
  if (type !== "json_schema") return undefined;
  return { type, json_schema: { name: "answer", strict: true, schema: read("schema", isObject, "must be a JSON schema, an object") } };
}

// Functions are taken with and without OpenAI's wrapping.
function tools() {
  const given = read("tools", (value) => Array.isArray(value) && value.length && value.every(isObject), "must be a list of functions: objects with a name");
  return given.map((one) => (one.type === "function" && one.function ? one : { type: "function", function: one }));
}

function read(id, isRight, wanted) {
  let value;
  try {
    value = JSON.parse($(id).value);
  } catch (error) {
    throw fault(id, `is no JSON: ${error.message}`);
  }
  if (!isRight(value)) throw fault(id, wanted);
  return value;
}

function fault(id, words) {
  $(id).setAttribute("aria-invalid", "true");
  return new FieldFault($(id), `${$(id).labels[0].firstChild.textContent.trim()} ${words}`);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
