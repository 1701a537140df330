/** The small parts of the HTTP layer, each against its own specification. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { negotiate } from "../../src/api/accept.ts";
import { loadContract } from "../../src/api/contract.ts";
import { problemResponse, problems } from "../../src/api/errors.ts";
import { etagOf, noneMatch, requireMatch } from "../../src/api/middleware/etag.ts";
import { isLoopback } from "../../src/api/middleware/auth.ts";
import { createGate } from "../../src/api/middleware/limits.ts";
import { createRateLimiter } from "../../src/api/middleware/rateLimit.ts";
import { parseRange } from "../../src/api/range.ts";
import { eventStream, formatEvent, type ServerEvent } from "../../src/api/sse.ts";
import { createValidator } from "../../src/api/validate.ts";
import { CodedError, errorCodes } from "../../src/ops/errors.ts";

const never = new AbortController().signal;

describe("Range", () => {
  test("one satisfiable range is cut to the representation", () => {
    assert.deepEqual(parseRange("bytes=0-9", 5), { offset: 0, length: 5 });
    assert.deepEqual(parseRange("bytes=2-2", 5), { offset: 2, length: 1 });
    assert.deepEqual(parseRange("bytes=-2", 5), { offset: 3, length: 2 });
    assert.deepEqual(parseRange("bytes=-9", 5), { offset: 0, length: 5 });
    assert.deepEqual(parseRange("bytes=3-", 5), { offset: 3, length: 2 });
  });
  test("what is malformed, foreign or several is ignored, what lies beyond is 416", () => {
    for (const header of [undefined, "", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "items=0-1", "bytes=0-1,2-3"]) {
      assert.equal(parseRange(header, 5), null, header);
    }
    for (const header of ["bytes=5-", "bytes=7-9", "bytes=-0"]) {
      assert.throws(() => parseRange(header, 5), { code: "range_not_satisfiable" });
    }
    assert.throws(() => parseRange("bytes=0-", 0), { code: "range_not_satisfiable" });
  });
});

describe("Accept", () => {
  const ask = (accept: string | null) =>
    negotiate(new Request("http://localhost", accept === null ? {} : { headers: { accept } }), [
      "application/json",
      "text/csv",
    ]);
  test("the first offer without a wish, the better rated with one, the specific before the general", () => {
    assert.equal(ask(null), "application/json");
    assert.equal(ask("text/csv"), "text/csv");
    assert.equal(ask("text/*"), "text/csv");
    assert.equal(ask("application/json;q=0.5, text/csv;q=0.9"), "text/csv");
    assert.equal(ask("*/*, application/json;q=0"), "text/csv");
  });
  test("none is 406", () => {
    for (const accept of ["image/png", "application/json;q=0, text/csv;q=0", "text/csv;q=2"]) {
      assert.throws(() => ask(accept), { code: "not_acceptable" });
    }
  });
});

describe("ETag", () => {
  test("If-None-Match compares weakly, If-Match strongly, and * matches anything", () => {
    const etag = etagOf("a");
    assert.notEqual(etag, etagOf("b"));
    assert.ok(
      noneMatch(`"x", W/${etag}`, etag) && noneMatch("*", etag) && !noneMatch('"x"', etag) && !noneMatch(null, etag),
    );
    requireMatch(undefined, etag);
    requireMatch(`"x", ${etag}`, etag);
    requireMatch("*", etag);
    assert.throws(() => requireMatch(`W/${etag}`, etag), { code: "precondition_failed" });
  });
});

test("every error code becomes a problem that the contract declares, with its status and nothing private", async () => {
  const contract = loadContract();
  const validator = createValidator(contract);
  const operation = contract.operations.find(({ id }) => id === "createTraining")!;
  const log = pino({ level: "silent" });
  for (const code of errorCodes) {
    const fields = [{ pointer: "/a", detail: "b" }];
    const error = new CodedError(code, "said", { fields, details: { number: 1 }, cause: new Error("private") });
    const response = problemResponse(error, "id-1", log);
    const text = await response.text();
    validator.response(operation, response.status, "application/problem+json", JSON.parse(text));
    assert.equal(response.status, problems[code].status);
    assert.ok(!text.includes("private"));
    assert.equal(response.headers.get("content-type"), "application/problem+json");
  }
  assert.match(
    await problemResponse(new TypeError("private"), "id-1", log).text(),
    /^(?!.*private).*"code":"internal"/,
  );
});

test("only addresses of this machine are loopback", () => {
  for (const host of ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "LOCALHOST"])
    assert.ok(isLoopback(host), host);
  for (const host of [
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "1127.0.0.1",
    "",
  ]) {
    assert.ok(!isLoopback(host), host);
  }
});

test("a rate limiter gives tokens back evenly, per principal", () => {
  let now = 0;
  const limiter = createRateLimiter(60, () => now);
  for (let i = 0; i < 60; i++) limiter.take("a");
  assert.throws(() => limiter.take("a"), { code: "too_many_requests", details: { retry_after_seconds: 1 } });
  limiter.take("b");
  now = 2_000;
  limiter.take("a");
  limiter.take("a");
  assert.throws(() => limiter.take("a"), { code: "too_many_requests" });
});

test("a gate counts places, and leaving twice gives back one", () => {
  const gate = createGate(2, "things");
  const [leave] = [gate.enter(), gate.enter()];
  assert.throws(() => gate.enter(), { code: "unavailable" });
  leave();
  leave();
  assert.equal(gate.inside, 1);
});

describe("server-sent events", () => {
  test("lines of data never end an event early", () => {
    assert.equal(
      formatEvent({ id: "1", event: "log", data: "a\nb\r\nc" }),
      "id: 1\nevent: log\ndata: a\ndata: b\ndata: c\n\n",
    );
  });

  test("nothing is produced ahead of a slow client, and leaving returns the source", async () => {
    let made = 0;
    let returned = false;
    async function* source(): AsyncGenerator<ServerEvent> {
      try {
        for (;;) yield { data: String(made++) };
      } finally {
        returned = true;
      }
    }
    const reader = eventStream(source, never).body!.getReader();
    await reader.read();
    await sleep(20);
    assert.ok(made <= 2, `${made} events were made for one that was read`);
    await reader.cancel();
    await sleep(0);
    assert.ok(returned);
  });

  test("a source that waits is woken when the client leaves, and onEnd is called once", async () => {
    let ends = 0;
    let woken = false;
    async function* source(signal: AbortSignal): AsyncGenerator<ServerEvent> {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      woken = true;
      yield { data: "never sent" };
    }
    const reader = eventStream(source, never, { onEnd: () => (ends += 1) }).body!.getReader();
    const pending = reader.read();
    await sleep(5);
    await reader.cancel();
    assert.equal((await pending).done, true);
    await sleep(0);
    assert.deepEqual([woken, ends], [true, 1]);
  });

  test("silence is filled with comments", async () => {
    async function* source(): AsyncGenerator<ServerEvent> {
      await sleep(70);
      yield { data: "x" };
    }
    const text = await eventStream(source, never, { heartbeatMs: 20 }).text();
    assert.match(text, /^(: still here\n\n){2,3}data: x\n\n$/);
  });

  test("silence after an event is filled too, and an event sets no timer", async (t) => {
    const timers = t.mock.method(globalThis, "setTimeout");
    async function* source(): AsyncGenerator<ServerEvent> {
      for (let i = 0; i < 500; i++) yield { data: "x" };
      await sleep(90);
      yield { data: "y" };
    }
    const text = await eventStream(source, never, { heartbeatMs: 20 }).text();
    assert.match(text, /^(data: x\n\n){500}(: still here\n\n){2,4}data: y\n\n$/);
    assert.ok(timers.mock.callCount() < 20, `${timers.mock.callCount()} timers`);
  });

  test("a client that takes nothing is dropped", async () => {
    let ended = false;
    async function* source(): AsyncGenerator<ServerEvent> {
      for (;;) yield { data: "x" };
    }
    const response = eventStream(source, never, { stalledMs: 20, onEnd: () => (ended = true) });
    const reader = response.body!.getReader();
    await reader.read();
    await sleep(60);
    assert.ok(ended);
    await assert.rejects(reader.read(), /took nothing for too long/);
  });

  test("a source that fails breaks the stream and frees its place", async () => {
    let ended = false;
    async function* source(): AsyncGenerator<ServerEvent> {
      yield { data: "x" };
      throw new Error("gone");
    }
    const response = eventStream(source, never, { onEnd: () => (ended = true) });
    await assert.rejects(response.text(), /gone/);
    assert.ok(ended);
  });
});
