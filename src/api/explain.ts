/**
 * Turns what Ajv found into sentences for people: the field, the value got, what is wanted. Ajv reports every
 * branch of a union; here a union is one finding, and a missing or undeclared field is pointed at itself.
 */
import type { ErrorObject } from "ajv";
import type { FieldError } from "../ops/errors.ts";

const maxFindings = 20;
const maxShownChars = 80;

/** @returns one finding per wrong place, at most `maxFindings`. */
export function explain(errors: readonly ErrorObject[]): FieldError[] {
  const unions = errors.filter(isUnion).map((union) => ({ union, branch: branchOfType(union, errors) }));
  const own = errors.filter((error) =>
    unions.every(({ union, branch }) => {
      if (union === error) return branch === null;
      return !isBranchOf(error, union) || (branch !== null && error.schemaPath.startsWith(branch));
    }),
  );
  const findings = own.map((error) => ({ pointer: pointerOf(error), detail: detailOf(error) }));
  const first = new Map(findings.toReversed().map((finding) => [finding.pointer, finding]));
  return findings.filter((finding) => first.get(finding.pointer) === finding).slice(0, maxFindings);
}

/** @returns `value` as JSON, cut where it is long. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value === "string" && value.length > maxShownChars) {
    return `${JSON.stringify(value.slice(0, maxShownChars).toWellFormed())}… (${value.length} characters)`;
  }
  return typeof value === "number" ? String(value) : JSON.stringify(value);
}

function isUnion(error: ErrorObject): boolean {
  return error.keyword === "oneOf" || error.keyword === "anyOf";
}

/**
 * @returns where the schema has the one branch of a union that has the type of the value, which then tells what is
 *   wrong with it (an empty text where a text or a list is wanted); null where there is none, or several
 */
function branchOfType(union: ErrorObject, errors: readonly ErrorObject[]): string | null {
  const branches = (union.parentSchema?.[union.keyword] ?? []) as Record<string, unknown>[];
  const own = branches.flatMap((branch, index) => (branch["type"] === typeName(union.data) ? [index] : []));
  const at = `${union.schemaPath}/${own[0]}/`;
  return own.length === 1 && errors.some((error) => error.schemaPath.startsWith(at)) ? at : null;
}

function typeName(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

function isBranchOf(error: ErrorObject, union: ErrorObject): boolean {
  const below = error.instancePath === union.instancePath || error.instancePath.startsWith(`${union.instancePath}/`);
  const inline = /\/(oneOf|anyOf)\/\d+/.test(error.schemaPath);
  const wholeValue = !("properties" in (union.parentSchema ?? {}));
  return below && (inline || wholeValue);
}

function escapePointer(key: string): string {
  return key.replaceAll("~", "~0").replaceAll("/", "~1");
}

function pointerOf(error: ErrorObject): string {
  const params = error.params as Record<string, unknown>;
  const within = params["missingProperty"] ?? params["additionalProperty"] ?? params["unevaluatedProperty"];
  if (typeof within === "string") return `${error.instancePath}/${escapePointer(within)}`;
  if (error.keyword === "discriminator") return `${error.instancePath}/${String(params["tag"])}`;
  return error.instancePath;
}

function detailOf(error: ErrorObject): string {
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case "required":
      return "is missing";
    case "additionalProperties":
    case "unevaluatedProperties": {
      const known = Object.keys((error.parentSchema?.["properties"] ?? {}) as object);
      return `is not a field here; the fields are ${known.length > 0 ? known.join(", ") : "none"}`;
    }
    case "discriminator":
      return `got ${show(params["tagValue"])}, want one of ${tagsOf(error).join(", ")}`;
    default:
      return `got ${show(error.data)}, want ${wanted(error, params)}`;
  }
}

function tagsOf(error: ErrorObject): readonly string[] {
  const discriminator = error.parentSchema?.["discriminator"] as { tags?: readonly string[] } | undefined;
  return discriminator?.tags ?? [];
}

/** Keyword -> what is wanted; `limit` is the bound that the schema states. */
const phrases: Readonly<Record<string, (limit: string) => string>> = {
  minimum: (limit) => `at least ${limit}`,
  maximum: (limit) => `at most ${limit}`,
  exclusiveMinimum: (limit) => `more than ${limit}`,
  exclusiveMaximum: (limit) => `less than ${limit}`,
  minLength: (limit) => `at least ${limit} characters`,
  maxLength: (limit) => `at most ${limit} characters`,
  minItems: (limit) => `at least ${limit} entries`,
  maxItems: (limit) => `at most ${limit} entries`,
  minProperties: (limit) => `at least ${limit} fields`,
  maxProperties: (limit) => `at most ${limit} fields`,
};

function wanted(error: ErrorObject, params: Record<string, unknown>): string {
  const phrase = phrases[error.keyword];
  if (phrase) return phrase(String(params["limit"]));
  if (error.keyword === "type") return [params["type"]].flat().join(" or ");
  if (error.keyword === "const") return show(params["allowedValue"]);
  if (error.keyword === "enum") return `one of ${(params["allowedValues"] as unknown[]).map(String).join(", ")}`;
  if (error.keyword === "uniqueItems") return "entries that differ";
  if (error.keyword === "pattern") return `text like ${String(params["pattern"])}${described(error)}`;
  if (isUnion(error)) return `exactly one of ${alternatives(error).join(", ")}${described(error)}`;
  return `${error.message ?? error.keyword}${described(error)}`;
}

function described(error: ErrorObject): string {
  const description: unknown = error.parentSchema?.["description"];
  return typeof description === "string" ? ` (${description.trim()})` : "";
}

function alternatives(error: ErrorObject): string[] {
  const branches = (error.parentSchema?.[error.keyword] ?? []) as Record<string, unknown>[];
  return branches.map((branch) => {
    if (typeof branch["$ref"] === "string") return branch["$ref"].split("/").at(-1) ?? "";
    if ("const" in branch) return show(branch["const"]);
    if ("type" in branch) return String(branch["type"]);
    return Array.isArray(branch["required"]) ? branch["required"].join(" and ") : "another form";
  });
}
