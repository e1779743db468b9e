// The page's one way to the server: the public routes, with a key where one is needed. Knows nothing of the page.

let key = "";

export function useKey(value) {
  key = value;
}

export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export async function get(path) {
  return (await answered(await fetch(path, { headers: headers() }))).json();
}

// Posts `body` (with a file: as a form) and yields the JSON of every server-sent event, until the stream ends or `signal` aborts it.
export async function* stream(path, body, signal, file = null) {
  const asked = { ...body, stream: true };
  const sent = file
    ? { headers: headers(), body: form(asked, file) }
    : { headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(asked) };
  const response = await answered(await fetch(path, { method: "POST", ...sent, signal }));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(response.status, event.error);
    yield event;
  }
}

function form(fields, file) {
  const parts = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    const inner = typeof value === "object" ? Object.entries(value).map(([key, one]) => [`${name}[${key}]`, one]) : [[name, value]];
    for (const [key, one] of inner) if (one !== undefined) parts.set(key, one);
  }
  parts.set("image", file);
  return parts;
}

function headers() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function answered(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(response.status, body.error, response.headers.get("retry-after"));
}

// The data of every event; comments keep the line warm and are passed over.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parts.push(value);
      if (!value.includes("\n")) continue;
      const frames = parts.splice(0).join("").split("\n\n");
      parts.push(frames.pop());
      for (const frame of frames) {
        const data = frame.split("\n").filter((line) => line.startsWith("data: "));
        if (data.length) yield data.map((line) => line.slice(6)).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
