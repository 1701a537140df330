/**
 * The contract as data: openapi.yaml read once, and its operations with what the pipeline needs of each. It is the
 * only description of routes: app.ts mounts whatever is listed here. Judging requests and answers by it is the
 * business of validate.ts.
 */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { invariant } from "../ops/errors.ts";
import type { OperationId, Scope } from "./handlers.ts";

/** Any part of the document, on the way through it. */
type Node = { [key: string]: unknown };

export const methods = ["get", "head", "options", "post", "put", "patch", "delete"] as const;
export type Method = (typeof methods)[number];

export interface Parameter {
  readonly name: string;
  readonly in: "query" | "path" | "header";
  readonly required: boolean;
  readonly schema: Node;
}

export interface Operation {
  readonly id: OperationId;
  readonly method: Method;
  /** As in the contract: `/v1/jobs/{id}`; also the label of logs and metrics. */
  readonly path: string;
  /** What a key must carry; `none` is open to all. */
  readonly scope: Scope | "none";
  readonly parameters: readonly Parameter[];
  /** `raw` bodies are left to the handler as a stream. */
  readonly body: "json" | "raw" | "none";
  /** Path of the operation in the document, for references: `["paths", "/v1/jobs/{id}", "get"]`. */
  readonly location: readonly string[];
}

export interface Contract {
  /** openapi.yaml, verbatim. */
  readonly text: string;
  readonly version: string;
  readonly document: Node;
  readonly operations: readonly Operation[];
}

const contractUrl = new URL("../../openapi.yaml", import.meta.url);

/** Reads openapi.yaml, which belongs to the program: what is wrong in it is a mistake of ours and throws. */
export function loadContract(): Contract {
  const text = readFileSync(contractUrl, "utf8");
  const document = parse(text) as Node;
  const operations = Object.entries(node(document["paths"])).flatMap(([path, item]) =>
    methods.filter((method) => method in node(item)).map((method) => readOperation(document, path, node(item), method)),
  );
  return { text, version: String(node(document["info"])["version"]), document, operations };
}

function readOperation(document: Node, path: string, item: Node, method: Method): Operation {
  const operation = node(item[method]);
  const declared = [...list(item["parameters"]), ...list(operation["parameters"])];
  const content = node(node(operation["requestBody"] ?? {})["content"] ?? {});
  const scope = operation["x-scope"];
  const known = scope === "none" || scope === "read" || scope === "write" || scope === "admin" || scope === "worker";
  invariant(known, `${method} ${path}: x-scope`);
  invariant(scope !== "none" || Array.isArray(operation["security"]), `${method} ${path} is open and does not say so`);
  return {
    id: String(operation["operationId"]) as OperationId,
    method,
    path,
    scope,
    parameters: declared.map((parameter) => readParameter(resolve(document, node(parameter)))),
    body: "application/json" in content ? "json" : Object.keys(content).length > 0 ? "raw" : "none",
    location: ["paths", path, method],
  };
}

function readParameter(parameter: Node): Parameter {
  const where = parameter["in"];
  invariant(where === "query" || where === "path" || where === "header", `parameter in ${String(where)}`);
  return {
    name: String(parameter["name"]),
    in: where,
    required: parameter["required"] === true,
    schema: node(parameter["schema"]),
  };
}

/** Follows a `$ref` within the document. */
function resolve(document: Node, part: Node): Node {
  const reference = part["$ref"];
  if (typeof reference !== "string") return part;
  return reference
    .slice(2)
    .split("/")
    .reduce((at, key) => node(at[key]), document);
}

function node(value: unknown): Node {
  invariant(typeof value === "object" && value !== null, "openapi.yaml: an object is missing");
  return value as Node;
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** @returns the path template for the router: `/v1/jobs/:id`. */
export function routePath(operation: Operation): string {
  return operation.path.replace(/\{(\w+)\}/g, ":$1");
}

/** @returns the methods that a concrete path has in the contract, in capitals; none for an unknown path. */
export function methodsOf(contract: Contract, path: string): readonly string[] {
  const found = new Set(operationsAt(contract, path).map((operation) => operation.method.toUpperCase()));
  if (found.has("GET")) found.add("HEAD");
  return [...found];
}

/** @returns the operations of a path, whatever their methods. */
export function operationsAt(contract: Contract, path: string): readonly Operation[] {
  return contract.operations.filter((operation) => templatePattern(operation.path).test(path));
}

function templatePattern(template: string): RegExp {
  return new RegExp(`^${template.replace(/[.]/g, "\\.").replace(/\{\w+\}/g, "[^/]+")}$`);
}
