/** What a wrong request is told: which field, what was there, what is wanted. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { readJson } from "../../src/api/body.ts";
import { loadContract, type Operation } from "../../src/api/contract.ts";
import { createValidator } from "../../src/api/validate.ts";
import { CodedError, type FieldError } from "../../src/ops/errors.ts";

const contract = loadContract();
const validator = createValidator(contract);

function operation(id: string): Operation {
  const found = contract.operations.find((candidate) => candidate.id === id);
  assert.ok(found, id);
  return found;
}

/** @returns what the error of `work` says about fields. */
async function fieldsOf(work: () => unknown): Promise<readonly FieldError[]> {
  try {
    await work();
  } catch (error) {
    assert.ok(error instanceof CodedError, String(error));
    assert.equal(error.code, "invalid_request");
    return error.fields;
  }
  assert.fail("it was taken");
}

const bodyFields = (id: string, body: unknown) => fieldsOf(() => validator.body(operation(id), body, 100));
const training = { checkpoint: "a", dataset: "b", tokens: 10, batch_tokens: 5, sequence_length: 5 };

describe("a body", () => {
  test("gets its defaults, also within objects that were not sent", () => {
    const body: Record<string, unknown> = { ...training, optimizer: { clip: null } };
    validator.body(operation("createTraining"), body, 100);
    assert.equal(body["backend"], "auto");
    assert.deepEqual(body["schedule"], { type: "cosine", warmup_steps: 0 });
    const expected = { type: "adamw", learning_rate: 0.0003, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
    assert.deepEqual(body["optimizer"], { ...expected, decay: "matrices", clip: null });
  });

  test("defaults of two requests are not the same object", () => {
    const [a, b]: { optimizer?: { betas?: number[] }; tokens: number }[] = [{ ...training }, { ...training }];
    validator.body(operation("createTraining"), a, 100);
    a!.optimizer!.betas![0] = 0;
    validator.body(operation("createTraining"), b, 100);
    assert.deepEqual(b!.optimizer!.betas, [0.9, 0.95]);
  });

  test("is told every wrong field at once, with value got and value wanted", async () => {
    assert.deepEqual(
      await bodyFields("createTraining", {
        checkpoint: "a",
        dataset: "b",
        tokens: -1,
        batch_tokens: 5.5,
        optimizer: { lr: 1 },
      }),
      [
        { pointer: "/sequence_length", detail: "is missing" },
        { pointer: "/tokens", detail: "got -1, want at least 1" },
        { pointer: "/batch_tokens", detail: "got 5.5, want integer" },
        {
          pointer: "/optimizer/lr",
          detail: "is not a field here; the fields are type, learning_rate, betas, eps, weight_decay, decay, clip",
        },
      ],
    );
  });

  test("of a large request is told the first wrong field only", async () => {
    const fields = await fieldsOf(() => validator.body(operation("createTraining"), { tokens: "x" }, 10_000_000));
    assert.equal(fields.length, 1);
  });

  test("a union is one finding, and says what it wants", async () => {
    const [finding, ...others] = await bodyFields("createCompletion", { model: "m", prompt: [1, "a"] });
    assert.deepEqual(others, []);
    assert.equal(finding?.pointer, "/prompt");
    assert.match(finding?.detail ?? "", /^got a list of 2, want exactly one of .*A text, several texts/);
    const source = await bodyFields("createCheckpoint", { source: { type: "dir" } });
    assert.deepEqual(source, [
      { pointer: "/source/type", detail: 'got "dir", want one of directory, upload, hub, random' },
    ]);
    assert.match(
      (await bodyFields("createGrowthPlan", { operator: "direct", axis: "depth" }))[0]?.detail ?? "",
      /one of checkpoint, config, preset/,
    );
  });

  test("where one branch of a union has the value's type, that branch says what is wrong", async () => {
    const stop = (value: unknown) => bodyFields("createCompletion", { model: "m", prompt: "x", stop: value });
    assert.deepEqual(await stop(""), [{ pointer: "/stop", detail: 'got "", want at least 1 characters' }]);
    assert.deepEqual(await stop(["a", ""]), [{ pointer: "/stop/1", detail: 'got "", want at least 1 characters' }]);
    assert.match((await stop(7))[0]?.detail ?? "", /^got 7, want exactly one of null, string, array/);
    const empty = { name: "n", tokenizer: "bytes", source: { type: "text", text: "" } };
    assert.deepEqual(await bodyFields("createDataset", empty), [
      { pointer: "/source/text", detail: 'got "", want at least 1 characters' },
    ]);
  });

  test("penalties of 0 and best_of 1, which clients send by default, are taken", () => {
    const neutral = { model: "m", prompt: "x", frequency_penalty: 0, presence_penalty: 0, best_of: 1 };
    validator.body(operation("createCompletion"), neutral, 100);
    const chat = { model: "m", messages: [{ role: "user", content: "x" }], frequency_penalty: 0, presence_penalty: 0 };
    validator.body(operation("createChatCompletion"), chat, 100);
  });

  test("fields of OpenAI that would not be honoured are refused", async () => {
    for (const field of ["best_of", "logit_bias", "presence_penalty", "suffix", "user"]) {
      const fields = await bodyFields("createCompletion", { model: "m", prompt: "x", [field]: 2 });
      assert.deepEqual(
        fields.map(({ pointer }) => pointer),
        [`/${field}`],
      );
    }
  });

  test("a name has not the form of an id, by which it could never be found", async () => {
    const rename = (name: string) => bodyFields("updateCheckpoint", { name });
    assert.equal((await rename("ckpt_01m8cvgtwdnst531z88p6r"))[0]?.pointer, "/name");
    validator.body(operation("updateCheckpoint"), { name: "ckpt_step_1000" }, 100);
  });

  test("long values are cut in messages", async () => {
    const [finding] = await bodyFields("createKey", { name: "x".repeat(5_000), scopes: ["read"] });
    assert.ok((finding?.detail.length ?? 0) < 200, finding?.detail);
  });
});

describe("parameters", () => {
  const query = (id: string, values: Record<string, unknown>) => validator.parameters(operation(id), "query", values);

  test("are coerced and get their defaults", () => {
    assert.deepEqual(query("listJobs", { limit: "5" }), { limit: 5 });
    assert.deepEqual(query("listJobs", {}), { limit: 20 });
    assert.deepEqual(query("deleteCheckpoint", { cascade: "true" }), { cascade: true });
  });

  test("that are wrong or undeclared are told where they were", async () => {
    const fields = await fieldsOf(() => query("listJobs", { limit: "1e9", sort: "x" }));
    assert.deepEqual(fields.map(({ pointer }) => pointer).toSorted(), ["/limit", "/sort"]);
    assert.ok(fields.every(({ detail }) => detail.startsWith("query parameter: ")));
    assert.deepEqual(
      (await fieldsOf(() => validator.parameters(operation("getJob"), "path", { id: "x" })))[0]?.pointer,
      "/id",
    );
  });
});

describe("the bytes of a body", () => {
  const limits = { maxBytes: 1_000, timeoutMs: 200 };
  const json = { "Content-Type": "application/json" };
  const send = (body: BodyInit | null, headers: Record<string, string> = json) =>
    readJson(
      new Request("http://localhost/", { method: "POST", body, headers, duplex: "half" } as RequestInit),
      limits,
      true,
    );

  const lies: readonly (readonly [what: string, body: BodyInit, detail: RegExp])[] = [
    ["not JSON", "{", /is not JSON/],
    ["not UTF-8", Buffer.from([0x22, 0xff, 0x22]), /not UTF-8/],
    ["the key __proto__", '{"a":{"__proto__":1}}', /__proto__/],
    ["NUL in a text", '{"a":"\\u0000"}', /U\+0000/],
    ["NUL in a key", '{"a\\u0000":1}', /U\+0000/],
    ["half of a surrogate pair", '["\\ud800"]', /surrogate/],
    ["a number beyond doubles", '{"a":1e999}', /too large/],
    ["nesting without end", `${"[".repeat(400)}${"]".repeat(400)}`, /deeper than 64/],
    ["nothing", "", /is missing/],
  ];
  for (const [what, body, detail] of lies) {
    test(`with ${what} are refused`, async () => {
      assert.match((await fieldsOf(() => send(body)))[0]?.detail ?? "", detail);
    });
  }

  test("say where the lie is", async () => {
    assert.equal((await fieldsOf(() => send('{"a":[0,{"b/c":"\\u0000"}]}')))[0]?.pointer, "/a/1/b~1c");
  });

  test("beyond the limit are refused, told or streamed", async () => {
    const code = (promise: Promise<unknown>) =>
      promise.then(
        () => "taken",
        (error: CodedError) => error.code,
      );
    assert.equal(await code(send(JSON.stringify("x".repeat(2_000)))), "payload_too_large");
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(100)) });
    assert.equal(await code(send(endless)), "payload_too_large");
    assert.equal(await code(send("{}", { "Content-Type": "text/plain" })), "unsupported_media_type");
    assert.equal(
      await code(send("{}", { "Content-Type": "application/json; charset=latin1" })),
      "unsupported_media_type",
    );
    assert.equal(await code(send("{}", { "Content-Type": "application/json; charset=utf-8" })), "taken");
    const json = { "Content-Type": "application/json" };
    assert.equal(await code(send("{}", { ...json, "Content-Encoding": "gzip" })), "unsupported_media_type");
    assert.equal(await code(send("{}", { ...json, "Content-Encoding": "identity" })), "taken");
  });

  test("that do not arrive in time are given up", async () => {
    const silent = new ReadableStream({ start: () => undefined });
    await assert.rejects(send(silent), /did not arrive within 200 ms/);
  });
});
