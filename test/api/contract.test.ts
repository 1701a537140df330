/** What the contract promises about itself: closed, limited, exemplified, and the same as the code beside it. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { generateTypes } from "../../scripts/gen.ts";
import { loadContract, methodsOf, routePath } from "../../src/api/contract.ts";
import { problems } from "../../src/api/errors.ts";
import { createValidator } from "../../src/api/validate.ts";
import { errorCodes } from "../../src/ops/errors.ts";

type Node = Record<string, unknown>;

const contract = loadContract();
const schemas = (contract.document["components"] as { schemas: Record<string, Node> }).schemas;

/** Every schema of the document, with where it stands. */
function* schemasWithin(node: unknown, at: string): Generator<[string, Node]> {
  if (typeof node !== "object" || node === null) return;
  if (Array.isArray(node)) {
    for (const [index, item] of node.entries()) yield* schemasWithin(item, `${at}/${index}`);
    return;
  }
  const schema = node as Node;
  yield [at, schema];
  for (const key of ["properties", "oneOf", "anyOf", "allOf", "items", "additionalProperties"]) {
    const below = schema[key];
    if (typeof below !== "object" || below === null) continue;
    if (key === "items" || key === "additionalProperties") yield* schemasWithin(below, `${at}/${key}`);
    else for (const [name, item] of Object.entries(below)) yield* schemasWithin(item, `${at}/${key}/${name}`);
  }
}

/** Names of the schemas that requests are made of, those they refer to included. */
function requestSchemas(): string[] {
  const found = new Set<string>();
  const follow = (text: string): void => {
    for (const [, name = ""] of text.matchAll(/#\/components\/schemas\/(\w+)/g)) {
      if (found.has(name)) continue;
      found.add(name);
      follow(JSON.stringify(schemas[name]));
    }
  };
  for (const item of Object.values(contract.document["paths"] as Record<string, Record<string, Node>>)) {
    for (const operation of Object.values(item)) follow(JSON.stringify(operation["requestBody"] ?? {}));
  }
  for (const { parameters } of contract.operations) follow(JSON.stringify(parameters));
  return [...found];
}

describe("the contract", () => {
  test("its types are the generated file: `npm run gen` has been run", async () => {
    const file = await readFile(new URL("../../src/api/openapi.gen.ts", import.meta.url), "utf8");
    assert.equal(file, await generateTypes());
  });

  test("its error codes are those of the code, each with the status that the server sends", () => {
    const declared = schemas["ErrorCode"] as { enum: string[]; description: string };
    assert.deepEqual(declared.enum.toSorted(), [...errorCodes].toSorted());
    for (const code of errorCodes) {
      const told = new RegExp(`\`${code}\` (\\d{3})`).exec(declared.description)?.[1];
      assert.equal(Number(told), problems[code].status, code);
    }
  });

  test("every object is closed, or a map of declared values, or somebody else's JSON", () => {
    const open: string[] = [];
    for (const [name, schema] of Object.entries(schemas)) {
      for (const [at, part] of schemasWithin(schema, name)) {
        if (part["type"] !== "object") continue;
        const rest = part["additionalProperties"];
        const closed = rest === false || typeof rest === "object" || "discriminator" in part || "x-ts-type" in part;
        if (!closed) open.push(at);
      }
    }
    assert.deepEqual(open, []);
  });

  test("every text, list and number of a request has limits", () => {
    const unlimited: string[] = [];
    for (const name of requestSchemas()) {
      for (const [at, part] of schemasWithin(schemas[name], name)) {
        const types = [part["type"]].flat();
        const has = (...keys: string[]) => keys.every((key) => key in part);
        const below = "minimum" in part || "exclusiveMinimum" in part;
        const above = "maximum" in part || "exclusiveMaximum" in part;
        if (types.includes("string") && !has("maxLength") && !has("enum") && !has("format")) unlimited.push(at);
        if (types.includes("array") && !has("maxItems")) unlimited.push(at);
        if ((types.includes("integer") || types.includes("number")) && !(below && above)) unlimited.push(at);
      }
    }
    assert.deepEqual(
      unlimited.filter((at) => !/^(Time|Sha256)/.test(at)),
      [],
    );
  });

  test("every example of a request body is valid", () => {
    const validator = createValidator(contract);
    let examples = 0;
    for (const operation of contract.operations.filter(({ body }) => body === "json")) {
      const path = [...operation.location, "requestBody", "content", "application/json"];
      const media = path.reduce<Node>((node, key) => node[key] as Node, contract.document);
      for (const { value } of Object.values((media["examples"] ?? {}) as Record<string, { value: unknown }>)) {
        validator.body(operation, structuredClone(value), 1_000);
        examples += 1;
      }
    }
    assert.ok(examples >= 10, `${examples} examples`);
  });

  test("every operation tells what it is for, its scope, and that it can fail", () => {
    const ids = contract.operations.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
    for (const { location, id } of contract.operations) {
      const operation = location.reduce<Node>((node, key) => node[key] as Node, contract.document);
      assert.equal(typeof operation["summary"], "string", id);
      assert.ok("4XX" in (operation["responses"] as Node), id);
    }
    const open = contract.operations.filter(({ scope }) => scope === "none").map(({ path }) => path);
    assert.deepEqual(open, [
      "/",
      "/healthz",
      "/readyz",
      "/openapi.yaml",
      "/docs",
      "/docs/{asset}",
      "/v2",
      "/v2/health/live",
      "/v2/health/ready",
    ]);
  });

  test("every POST takes an Idempotency-Key", () => {
    const posts = contract.operations.filter(({ method }) => method === "post");
    const without = posts.filter(({ parameters }) => !parameters.some(({ name }) => name === "Idempotency-Key"));
    assert.deepEqual(
      without.map(({ id }) => id),
      [],
    );
  });

  test("a concrete path has the methods of its template, and GET brings HEAD", () => {
    assert.deepEqual(methodsOf(contract, "/v1/jobs/job_1").toSorted(), ["GET", "HEAD"]);
    assert.deepEqual(methodsOf(contract, "/v1/growths"), ["POST"]);
    assert.deepEqual(methodsOf(contract, "/openapiXyaml"), []);
    assert.deepEqual(methodsOf(contract, "/v1/jobs/a/b"), []);
    const files = contract.operations.find(({ id }) => id === "getCheckpointFile");
    assert.equal(files && routePath(files), "/v1/checkpoints/:id/files/:name");
  });
});
