/**
 * Judges requests, and in tests answers, by the schemas of the contract with Ajv (JSON Schema 2020-12). Defaults
 * are filled in; only parameters are coerced, since they come as text. A wrong request is judged a second time to
 * find all that is wrong with it, if it is small: the first pass stops at the first finding, so that a large
 * hostile body costs little. Validators are compiled when first needed.
 */
import type { AnySchemaObject, ErrorObject, FuncKeywordDefinition, Options, ValidateFunction } from "ajv/dist/2020.js";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormatsModule from "ajv-formats";
import { CodedError, invariant, type FieldError } from "../ops/errors.ts";
import type { Contract, Operation, Parameter } from "./contract.ts";
import { explain } from "./explain.ts";

/** ajv-formats is CommonJS; its types hide that the function is the default export of the module object. */
const addFormats = addFormatsModule as unknown as (ajv: Ajv2020) => Ajv2020;

/** Bodies larger than this are told only the first thing that is wrong. */
const maxExplainedBytes = 65_536;

type Values = Record<string, unknown>;

export interface Validator {
  /** @returns the parameters of one kind, coerced. @throws invalid_request */
  parameters(operation: Operation, where: Parameter["in"], values: Values): Values;
  /** Checks a JSON body in place, filling in defaults. @throws invalid_request */
  body(operation: Operation, body: unknown, sizeBytes: number): void;
  /** @throws Error (ours to mend) when an answer is not what the contract promises; for tests. */
  response(operation: Operation, status: number, contentType: string, body: unknown): void;
}

/** In OpenAI's API a field that is null is one that is not given: it gets its default before it is judged. */
const nullMeansDefault: FuncKeywordDefinition = {
  ...{ keyword: "x-null-means-default", type: "object", schemaType: "boolean", before: "properties" },
  ...{ modifying: true, errors: false },
  validate(isSet: boolean, body: Values, schema?: AnySchemaObject) {
    const properties = (schema?.["properties"] ?? {}) as Record<string, { readonly default?: unknown }>;
    for (const [name, { default: fallback }] of isSet ? Object.entries(properties) : []) {
      if (Object.hasOwn(body, name) && body[name] === null && fallback !== undefined) body[name] = fallback;
    }
    return true;
  },
};

export function createValidator(contract: Contract): Validator {
  const document = withTags(contract.document) as object;
  const create = (options: Options): Ajv2020 => {
    const ajv = new Ajv2020({
      ...{ strict: true, strictTypes: false, strictRequired: false, discriminator: true, verbose: true },
      ...options,
    });
    // strict mode wants every key that it passes on the way into the document to be known
    ajv.addVocabulary(["x-ts-type", ...Object.keys(document)]);
    ajv.addKeyword(nullMeansDefault);
    return addFormats(ajv).addSchema(document, "contract", undefined, false);
  };
  const first = once(() => create({ useDefaults: true }));
  const all = once(() => create({ useDefaults: true, allErrors: true }));
  const coercing = once(() => create({ useDefaults: true, allErrors: true, coerceTypes: true }));
  const answers = once(() => create({ allErrors: true }));
  return {
    parameters(operation, where, values) {
      const check = compiled(coercing(), `${operation.id} ${where}`, () => parametersSchema(operation, where));
      if (!check(values)) throw invalidParameters(where, check.errors ?? []);
      return values;
    },
    body(operation, body, sizeBytes) {
      const path = [...operation.location, "requestBody", "content", "application/json", "schema"];
      const schema = (): object => ({ $ref: reference(path) });
      if (compiled(first(), `${operation.id} body`, schema)(body)) return;
      const check = compiled(sizeBytes <= maxExplainedBytes ? all() : first(), `${operation.id} body`, schema);
      check(body);
      throw invalidRequest(explain(check.errors ?? []));
    },
    response(operation, status, contentType, body) {
      const schema = responseSchema(contract, operation, status, contentType);
      // without a slash: Ajv resolves references relative to it
      const key = `${operation.id} ${status} ${contentType.replace("/", " ")}`;
      const check = compiled(answers(), key, () => schema);
      if (check(body)) return;
      const found = explain(check.errors ?? []).map(({ pointer, detail }) => `${pointer} ${detail}`);
      throw new Error(`${operation.id} answered ${status} with what the contract does not say: ${found.join("; ")}`);
    },
  };
}

/** @returns the error for findings in a request, with the first of them in its message. */
export function invalidRequest(fields: readonly FieldError[]): CodedError {
  const [head] = fields;
  const more = fields.length > 1 ? ` (and ${fields.length - 1} more)` : "";
  const message = head ? `${head.pointer === "" ? "the body" : head.pointer}: ${head.detail}${more}` : "not valid";
  return new CodedError("invalid_request", message, { fields });
}

function invalidParameters(where: string, errors: readonly ErrorObject[]): CodedError {
  const fields = explain(errors).map(({ pointer, detail }) => ({ pointer, detail: `${where} parameter: ${detail}` }));
  return invalidRequest(fields);
}

function compiled(ajv: Ajv2020, key: string, schema: () => object): ValidateFunction {
  const present = ajv.getSchema(key);
  if (present) return present;
  ajv.addSchema(schema(), key, undefined, false);
  const fresh = ajv.getSchema(key);
  invariant(fresh, `the schema of ${key} does not compile`);
  return fresh;
}

/** Headers beyond those declared are anybody's; an undeclared query parameter is a mistake. */
function parametersSchema(operation: Operation, where: Parameter["in"]): object {
  const parameters = operation.parameters.filter((parameter) => parameter.in === where);
  const named = parameters.map(({ name, schema }) => [name, absolute(schema)] as const);
  return {
    type: "object",
    properties: Object.fromEntries(named),
    required: parameters.filter((parameter) => parameter.required).map((parameter) => parameter.name),
    additionalProperties: false,
  };
}

/** Points references of a part of the contract at the whole of it. */
function absolute(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(absolute);
  if (typeof schema !== "object" || schema === null) return schema;
  const entries = Object.entries(schema).map(([key, value]) => {
    return [key, key === "$ref" ? `contract${String(value)}` : absolute(value)] as const;
  });
  return Object.fromEntries(entries);
}

function responseSchema(contract: Contract, operation: Operation, status: number, contentType: string): object {
  const path = [...operation.location, "responses"];
  const responses = at(contract.document, path);
  const key = [String(status), `${Math.floor(status / 100)}XX`].find((name) => name in responses);
  if (key === undefined) throw new Error(`${operation.id} answered ${status}, which the contract does not declare`);
  const entry = responses[key] as Values;
  const shared = typeof entry["$ref"] === "string" ? entry["$ref"].slice(2).split("/") : [...path, key];
  const content = at(contract.document, shared)["content"];
  if (content === undefined && contentType === "") return {};
  const media = (content as Values | undefined)?.[contentType];
  const shown = contentType === "" ? "nothing" : contentType;
  if (media === undefined) throw new Error(`${operation.id} answered ${status} with ${shown}, which is undeclared`);
  const isJson = /[/+]json$/.test(contentType) && "schema" in (media as Values);
  return isJson ? { $ref: reference([...shared, "content", contentType, "schema"]) } : {};
}

function at(document: Values, path: readonly string[]): Values {
  return path.reduce((node, key) => node[key] as Values, document);
}

function reference(path: readonly string[]): string {
  const segments = path.map((key) => encodeURIComponent(key.replaceAll("~", "~0").replaceAll("/", "~1")));
  return `contract#/${segments.join("/")}`;
}

/** Ajv takes no `mapping` in a discriminator: its tags are kept, for messages, and the mapping goes. */
function withTags(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withTags);
  if (typeof node !== "object" || node === null) return node;
  const entries = Object.entries(node).map(([key, value]) => {
    if (key !== "discriminator") return [key, withTags(value)] as const;
    const { propertyName, mapping } = value as { propertyName: string; mapping: object };
    return [key, { propertyName, tags: Object.keys(mapping) }] as const;
  });
  return Object.fromEntries(entries);
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}
