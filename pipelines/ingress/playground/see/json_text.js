// JSON as text: laid out in lines without reading its values, so that no number changes and what is not whole yet can be shown, too.

export function indented(text) {
  let out = "";
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const sign = text[at];
    if (sign === '"') {
      const end = endOfString(text, at);
      out += text.slice(at, end);
      at = end - 1;
    } else if (sign === "{" || sign === "[") {
      const close = /^\s*[}\]]/.exec(text.slice(at + 1, at + 200));
      if (close) {
        out += sign + close[0].trim();
        at += close[0].length;
      } else out += sign + line(++depth);
    } else if (sign === "}" || sign === "]") out += line(--depth) + sign;
    else if (sign === ",") out += sign + line(depth);
    else if (sign === ":") out += ": ";
    else if (!/\s/.test(sign)) out += sign;
  }
  return out;
}

function line(depth) {
  return `\n${"  ".repeat(Math.max(0, depth))}`;
}

// Just behind the quote that ends it, or the end of the text.
function endOfString(text, start) {
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === '"') return at + 1;
  }
  return text.length;
}

// The value, or undefined where it is no JSON.
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
