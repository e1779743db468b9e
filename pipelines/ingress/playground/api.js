// The page's one way to the server: the public routes, with a key where one is needed. Knows nothing of the page.
//
// A request is { path, body, files }: `body` the fields as JSON has them, `files` name -> File; with files it is sent as a form.

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
  return (await answered(path, {})).json();
}

export async function act(method, path) {
  return (await answered(path, { method })).json();
}

export async function fetchImage(path) {
  return (await answered(path, {})).blob();
}

export async function submit(request) {
  return (await answered(request.path, { method: "POST", ...sent(request.body, request.files) })).json();
}

// Yields the JSON of every server-sent event, until the stream ends or `signal` aborts it.
export async function* stream(request, signal) {
  const response = await answered(request.path, { method: "POST", ...sent({ ...request.body, stream: true }, request.files), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(response.status, event.error);
    yield event;
  }
}

function sent(body, files) {
  if (files && Object.keys(files).length) return { body: form(body, files) };
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

function form(fields, files) {
  const parts = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    const inner = typeof value === "object" ? Object.entries(value).map(([key, one]) => [`${name}[${key}]`, one]) : [[name, value]];
    for (const [key, one] of inner) if (one !== undefined) parts.set(key, one);
  }
  for (const [name, file] of Object.entries(files)) parts.set(name, file, file.name);
  return parts;
}

async function answered(path, options) {
  const authorization = key ? { authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization } }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server can’t be reached." });
  });
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
