// A request as a shell command. The key is the reader's own `$OPENAI_API_KEY`.

import { FileText, paints } from "./asked_again.js";

export function asCurl({ path, body, files }, base) {
  const lines = [`curl -sS ${quoted(new URL(path, base).href)}`, '-H "Authorization: Bearer $OPENAI_API_KEY"'];
  const into = paints(path) ? " | jq -r '.data[0].b64_json' | base64 -d > painted.png" : "";
  if (Object.keys(files).length) return [...lines, ...formLines(body, files)].join(" \\\n  ") + into;
  const document = documentOf(body);
  return `${[...lines, "-H 'Content-Type: application/json'", `--data-binary @- <<${document.mark}`].join(" \\\n  ")}${into}\n${document.text}\nJSON`;
}

// The body as a here-document. The shell looks into it only where a file's content is to be filled in; the rest is then escaped.
function documentOf(body) {
  const [files, place] = [[], crypto.getRandomValues(new Uint32Array(4)).join("-")];
  const text = JSON.stringify(body, (_, value) => (value instanceof FileText ? filledIn(value) : value), 2);
  function filledIn(file) {
    files.push(file);
    return `data:${file.type};base64,${place}`;
  }
  if (!files.length) return { mark: "'JSON'", text };
  const [first, ...rest] = text.replace(/[\\$`]/g, "\\$&").split(place);
  return { mark: "JSON", text: first + rest.map((part, at) => `$(base64 < ${quoted(files[at].name)} | tr -d '\\n')${part}`).join("") };
}

function formLines(body, files) {
  const fields = Object.entries(body).flatMap(([name, value]) =>
    typeof value === "object" ? Object.entries(value).map(([inner, one]) => [`${name}[${inner}]`, one]) : [[name, value]],
  );
  return [
    ...Object.entries(files).map(([name, file]) => `-F ${quoted(`${name}=@"${file.replace(/["\\]/g, "\\$&")}"`)}`),
    ...fields.map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`),
  ];
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
