// What of a request goes into code that asks the same: the whole answer in place of its events, and files in place of what is large.
// Knows no language.

const LARGE = 1000; // characters of a data URL
const AS_IT_COMES = ["stream", "stream_options", "partial_images"];

// In the place of a text that is "data:{type};base64," and a file's content.
export class FileText {
  constructor(name, type) {
    this.name = name;
    this.type = type;
  }
}

// { path, body, files: name -> file name }; texts in `body` may be a FileText.
export function askedAgain({ path, body, files }) {
  const plain = JSON.parse(JSON.stringify(body));
  for (const name of AS_IT_COMES) delete plain[name];
  if (plain.triptych) {
    delete plain.triptych.progress;
    if (!Object.keys(plain.triptych).length) delete plain.triptych;
  }
  const named = Object.entries(files ?? {}).map(([name, file]) => [name, fileName(name, file)]);
  return { path, body: withFiles(plain, { count: 0 }), files: Object.fromEntries(named) };
}

// A mask is made here and has no name of its own.
function fileName(name, file) {
  return typeof file === "string" ? file : file.name || `${name}.png`;
}

function withFiles(value, seen) {
  if (typeof value === "string") {
    const found = value.length > LARGE && /^data:([\w/+.-]+);base64,/.exec(value);
    return found ? new FileText(`picture-${++seen.count}.${found[1].split("/")[1].replace("jpeg", "jpg")}`, found[1]) : value;
  }
  if (Array.isArray(value)) return value.map((one) => withFiles(one, seen));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, withFiles(one, seen)]));
}

export function paints(path) {
  return path.endsWith("images/generations") || path.endsWith("images/edits");
}
