// A request as a program over OpenAI's own client. The key is the reader's own, out of the environment.

import { FileText, paints } from "./asked_again.js";

const CALLS = {
  "v1/chat/completions": "client.chat.completions.create",
  "v1/images/generations": "client.images.generate",
  "v1/images/edits": "client.images.edit",
};
const OWN = ["triptych", "strength"]; // what the client has no name for

export function asPython(request, base) {
  const call = CALLS[request.path] ? knownCall(request) : plainCall(request);
  const files = call.includes("data_url(");
  const imports = [...(files || paints(request.path) ? ["import base64"] : []), "import os", "", "from openai import OpenAI"];
  const key = 'api_key=os.environ.get("OPENAI_API_KEY", "none")';
  const client = `client = OpenAI(base_url=${JSON.stringify(new URL("v1", base).href)}, ${key})`;
  return [...imports, "", client, ...(files ? DATA_URL : [""]), call, ...told(request.path), ""].join("\n");
}

const DATA_URL = [
  "",
  "",
  "def data_url(path: str, kind: str) -> str:",
  '    with open(path, "rb") as file:',
  '        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"',
  "",
  "",
];

function knownCall({ path, body, files }) {
  const known = Object.entries(body).filter(([name]) => !OWN.includes(name));
  const own = Object.fromEntries(Object.entries(body).filter(([name]) => OWN.includes(name)));
  const lines = [...known, ...(Object.keys(own).length ? [["extra_body", own]] : [])].map(([name, value]) => `${name}=${literal(value, "    ")}`);
  return `answer = ${CALLS[path]}(\n${[...opened(files), ...lines].map((line) => `    ${line},\n`).join("")})`;
}

function opened(files) {
  return Object.entries(files).map(([name, file]) => `${name}=open(${JSON.stringify(file)}, "rb")`);
}

// Of a route that the client has no method for.
function plainCall({ path, body, files }) {
  const lines = [JSON.stringify(path.replace(/^v1/, "")), "cast_to=object", `body=${literal(body, "    ")}`];
  const named = Object.entries(files).map(([name, file]) => `${JSON.stringify(name)}: open(${JSON.stringify(file)}, "rb")`);
  if (named.length) lines.push(`files={${named.join(", ")}}`, 'options={"headers": {"Content-Type": "multipart/form-data"}}');
  return `answer = client.post(\n${lines.map((line) => `    ${line},\n`).join("")})`;
}

function told(path) {
  if (!paints(path)) return [CALLS[path] ? "print(answer.choices[0].message.to_json())" : "print(answer)"];
  return ['with open("painted.png", "wb") as file:', "    file.write(base64.b64decode(answer.data[0].b64_json))"];
}

// JSON's values as Python writes them.
function literal(value, indent) {
  if (value instanceof FileText) return `data_url(${JSON.stringify(value.name)}, ${JSON.stringify(value.type)})`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [inner, isList] = [`${indent}    `, Array.isArray(value)];
  const members = isList
    ? value.map((one) => literal(one, inner))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${literal(one, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  const short = open + members.join(", ") + close;
  if (short.length < 80 && !short.includes("\n")) return short;
  return `${open}\n${members.map((member) => `${inner}${member},\n`).join("")}${indent}${close}`;
}
