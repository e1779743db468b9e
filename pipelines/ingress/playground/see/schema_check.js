// Whether a value is of a JSON schema, told in words. The server has enforced it already; this shows that it did. Keywords that are not looked at
// here are named, never passed over.

const ABOUT = ["title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"];
const CHECKS = {
  type: (value, wanted) => [wanted].flat().some((type) => isOf(value, type)) || `must be ${[wanted].flat().join(" or ")}`,
  enum: (value, wanted) => wanted.some((one) => same(one, value)) || `must be one of ${wanted.map((one) => JSON.stringify(one)).join(", ")}`,
  const: (value, wanted) => same(value, wanted) || `must be ${JSON.stringify(wanted)}`,
  minimum: (value, least) => typeof value !== "number" || value >= least || `must be at least ${least}`,
  maximum: (value, most) => typeof value !== "number" || value <= most || `must be at most ${most}`,
  exclusiveMinimum: (value, least) => typeof value !== "number" || value > least || `must be over ${least}`,
  exclusiveMaximum: (value, most) => typeof value !== "number" || value < most || `must be under ${most}`,
  minLength: (value, least) => typeof value !== "string" || [...value].length >= least || `must have at least ${least} characters`,
  maxLength: (value, most) => typeof value !== "string" || [...value].length <= most || `must have at most ${most} characters`,
  pattern: (value, pattern) => typeof value !== "string" || new RegExp(pattern, "u").test(value) || `must match ${pattern}`,
  minItems: (value, least) => !Array.isArray(value) || value.length >= least || `must have at least ${least} items`,
  maxItems: (value, most) => !Array.isArray(value) || value.length <= most || `must have at most ${most} items`,
  required: (value, names) => {
    const missing = isOf(value, "object") ? names.filter((name) => !Object.hasOwn(value, name)) : [];
    return !missing.length || `lacks ${missing.join(", ")}`;
  },
};
const INNER = ["properties", "additionalProperties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref"];

const MAX_DEPTH = 200; // a reference may lead to itself

// { faults: texts, unseen: keywords that were not looked at }
export function check(value, schema) {
  const found = { faults: [], unseen: new Set(), depth: 0 };
  walk(value, schema, "the answer", schema, found);
  return { faults: found.faults, unseen: [...found.unseen].sort() };
}

function walk(value, schema, place, root, found) {
  if (schema === false) found.faults.push(`${place} must not be there`);
  if (typeof schema !== "object" || schema === null) return;
  if (found.depth > MAX_DEPTH) {
    found.unseen.add(`what is deeper than ${MAX_DEPTH}`);
    return;
  }
  found.depth++;
  walkKeywords(value, schema, place, root, found);
  found.depth--;
}

function walkKeywords(value, schema, place, root, found) {
  for (const [keyword, wanted] of Object.entries(schema)) {
    if (CHECKS[keyword]) {
      const told = CHECKS[keyword](value, wanted);
      if (told !== true) found.faults.push(`${place} ${told}`);
    } else if (![...ABOUT, ...INNER].includes(keyword)) found.unseen.add(keyword);
  }
  if (schema.$ref?.startsWith("#")) walk(value, resolved(schema.$ref, root), place, root, found);
  else if (schema.$ref) found.unseen.add("$ref");
  for (const each of schema.allOf ?? []) walk(value, each, place, root, found);
  for (const keyword of ["anyOf", "oneOf"]) if (schema[keyword]) choose(value, keyword, schema[keyword], place, root, found);
  if (Array.isArray(value)) walkItems(value, schema, place, root, found);
  else if (isOf(value, "object")) walkMembers(value, schema, place, root, found);
}

function choose(value, keyword, schemas, place, root, found) {
  const fitting = schemas.filter((schema) => {
    const inner = { ...found, faults: [] };
    walk(value, schema, place, root, inner);
    return !inner.faults.length;
  });
  if (!fitting.length || (keyword === "oneOf" && fitting.length > 1)) found.faults.push(`${place} is of ${fitting.length} forms of ${keyword}`);
}

function walkItems(items, schema, place, root, found) {
  const first = schema.prefixItems ?? [];
  items.forEach((item, at) => walk(item, first[at] ?? schema.items ?? true, `${place}[${at}]`, root, found));
}

function walkMembers(members, schema, place, root, found) {
  for (const [name, member] of Object.entries(members)) {
    const known = schema.properties && Object.hasOwn(schema.properties, name);
    walk(member, known ? schema.properties[name] : (schema.additionalProperties ?? true), `${place}.${name}`, root, found);
  }
}

function resolved(reference, root) {
  const names = reference.replace(/^#\/?/, "").split("/").filter(Boolean);
  return names.reduce((here, name) => here?.[decodeURIComponent(name).replaceAll("~1", "/").replaceAll("~0", "~")], root) ?? true;
}

function isOf(value, type) {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

function same(one, other) {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other || Array.isArray(one) !== Array.isArray(other)) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => Object.hasOwn(other, name) && same(one[name], other[name]));
}
