/** What holds for every route: keys, idempotency, preferences, limits, ids, unknown routes. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { createApp } from "../../src/api/app.ts";
import { loadContract } from "../../src/api/contract.ts";
import { CodedError } from "../../src/ops/errors.ts";
import { assertProblem, startHarness, tinySource, type Harness } from "./helpers/harness.ts";

const contract = loadContract();
/** A path for each template: ids that look right and belong to nobody. */
const concrete = (path: string): string =>
  path
    .replace("{asset}", "start.js")
    .replace("{name}", "config.json")
    .replace("{model}", "nobody")
    .replace("{id}", () => {
      const prefix = /\/v1\/(\w+)/.exec(path)?.[1] ?? "";
      const ids: Record<string, string> = {
        jobs: "job_0",
        evaluations: "eval_0",
        keys: "key_0",
        uploads: `upl_${"0".repeat(32)}`,
      };
      return ids[prefix] ?? "nobody";
    });

describe("without keys, on loopback", () => {
  let api: Harness;
  before(async () => {
    api = await startHarness({ environment: { MAX_BODY_BYTES: "100000" } });
  });
  after(() => api.close());

  test("no route of the contract answers with an internal error to an empty request", async () => {
    for (const { method, path } of contract.operations) {
      const answer = await api.call(method.toUpperCase(), concrete(path));
      assert.ok(answer.status < 500, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    }
  });

  test("every answer carries a request id, the client's own where it is harmless", async () => {
    const own = await api.call("GET", "/healthz", { headers: { "X-Request-Id": "my-id.1" } });
    assert.equal(own.headers.get("x-request-id"), "my-id.1");
    const odd = await api.call("GET", "/nope", { headers: { "X-Request-Id": "a b<script>" } });
    assert.match(odd.headers.get("x-request-id") ?? "", /^[0-9a-f-]{36}$/);
    assertProblem(odd, 404, "not_found");
  });

  test("a name rebound to loopback and a page of another site are refused", async () => {
    assertProblem(await api.call("GET", "http://evil.example/v1/jobs"), 403, "forbidden");
    assertProblem(await api.call("GET", "/v1/jobs", { headers: { Origin: "https://evil.example" } }), 403, "forbidden");
    assertProblem(await api.call("GET", "/v1/jobs", { headers: { Origin: "null" } }), 403, "forbidden");
    assert.equal(
      (await api.call("GET", "http://127.0.0.1:8080/v1/jobs", { headers: { Origin: "http://localhost:3000" } })).status,
      200,
    );
    assert.equal((await api.call("GET", "http://[::1]:8080/v1/jobs")).status, 200);
    assert.equal((await api.call("GET", "http://evil.example/healthz")).status, 200);
  });

  test("405 names the methods that there are; 404 for an unknown route", async () => {
    const answer = await api.call("PUT", "/v1/checkpoints");
    assertProblem(answer, 405, "method_not_allowed");
    assert.deepEqual(answer.headers.get("allow")?.split(", ").toSorted(), ["GET", "HEAD", "POST"]);
    assertProblem(await api.call("GET", "/v1/growths"), 405, "method_not_allowed");
    assertProblem(await api.call("GET", "/v2/checkpoints"), 404, "not_found");
  });

  test("HEAD answers like GET, without a body", async () => {
    const head = await api.call("HEAD", "/v1/jobs");
    assert.deepEqual([head.status, head.body], [200, ""]);
    assert.equal((await api.call("HEAD", "/v1/jobs/job_0")).status, 404);
  });

  test("413 and 415 before anything is read", async () => {
    const large = { name: "x", source: { type: "text", text: "x".repeat(200_000) }, tokenizer: "bytes" };
    assertProblem(await api.call("POST", "/v1/datasets", { body: large }), 413, "payload_too_large");
    const form = { body: "a=b", headers: { "Content-Type": "application/x-www-form-urlencoded" } };
    assertProblem(await api.call("POST", "/v1/datasets", form), 415, "unsupported_media_type");
  });

  test("406 when no form that is offered is accepted", async () => {
    assertProblem(await api.call("GET", "/", { headers: { Accept: "image/png" } }), 406, "not_acceptable");
    assert.match((await api.call("GET", "/", { headers: { Accept: "text/html,*/*;q=0.8" } })).body, /<h1>Cambium/);
  });

  test("where Accept decides, every answer says so to caches, a refusal and a 304 too, and no other does", async () => {
    const { body: job } = await api.call("POST", "/v1/checkpoints", { body: { source: tinySource } });
    const decided = ["/", "/v1/benchmarks/results", `/v1/jobs/${job.id}/events`, `/v1/jobs/${job.id}/metrics`];
    for (const path of decided) {
      for (const [accept, wanted] of [
        ["*/*", 200],
        ["image/png", 406],
      ] as const) {
        const { status, headers } = await api.call("GET", path, { headers: { Accept: accept } });
        assert.deepEqual([status, headers.get("vary")], [wanted, "Accept"], `${path} as ${accept}`);
      }
    }
    const { headers } = await api.call("GET", "/v1/benchmarks/results");
    const again = await api.call("GET", "/v1/benchmarks/results", {
      headers: { "If-None-Match": headers.get("etag")! },
    });
    assert.deepEqual([again.status, again.headers.get("vary")], [304, "Accept"]);
    assert.equal((await api.call("GET", "/v1/jobs")).headers.get("vary"), null);
  });

  test("Idempotency-Key: a repeat gets the first answer, another body 422, another path is another key", async () => {
    const headers = { "Idempotency-Key": "abc" };
    const request = { body: { name: "once", source: tinySource }, headers };
    const first = await api.call("POST", "/v1/checkpoints", request);
    assert.equal(first.status, 202);
    const again = await api.call("POST", "/v1/checkpoints", request);
    assert.deepEqual([again.status, again.body], [first.status, first.body]);
    assert.equal(again.headers.get("idempotency-replayed"), "true");
    assert.equal(again.headers.get("location"), first.headers.get("location"));
    const other = { body: { name: "twice", source: tinySource }, headers };
    assertProblem(await api.call("POST", "/v1/checkpoints", other), 422, "idempotency_mismatch");
    const plan = { body: { preset: "410m-base", operator: "direct", axis: "depth", factor: 4 }, headers };
    assert.equal((await api.call("POST", "/v1/growth-plans", plan)).status, 200);
    const jobs = (await api.call("GET", "/v1/jobs?limit=100")).body.data;
    assert.equal(jobs.filter((job: { request: { name?: string } }) => job.request.name === "once").length, 1);
  });

  test("Idempotency-Key: while the first is being answered 409; after a failure the key is free", async () => {
    const headers = { "Idempotency-Key": "slow", Prefer: "wait=30" };
    const request = { body: { name: "slow", source: tinySource }, headers };
    const [one, two] = await Promise.all([
      api.call("POST", "/v1/checkpoints", request),
      new Promise((resolve) => setTimeout(resolve, 50)).then(() => api.call("POST", "/v1/checkpoints", request)),
    ]);
    assert.equal(one.status, 200, JSON.stringify(one.body));
    assertProblem(two, 409, "idempotency_conflict");
    assert.ok(two.headers.get("retry-after"));
    const wrong = {
      body: { preset: "none", operator: "direct", axis: "depth" },
      headers: { "Idempotency-Key": "retry" },
    };
    assertProblem(await api.call("POST", "/v1/growth-plans", wrong), 400, "invalid_request");
    const right = {
      body: { preset: "410m", operator: "direct", axis: "depth", factor: 2 },
      headers: { "Idempotency-Key": "retry" },
    };
    assert.equal((await api.call("POST", "/v1/growth-plans", right)).status, 200);
  });

  test("Prefer: wait=N holds the answer, says so, and never longer than N", async () => {
    const body = { source: tinySource };
    const now = await api.call("POST", "/v1/checkpoints", { body });
    assert.deepEqual([now.status, now.headers.get("preference-applied")], [202, null]);
    assert.equal(now.headers.get("location"), `/v1/jobs/${now.body.id}`);
    const held = await api.call("POST", "/v1/checkpoints", { body, headers: { Prefer: "respond-async, wait=60" } });
    assert.deepEqual([held.status, held.body.status], [200, "succeeded"]);
    assert.equal(held.headers.get("preference-applied"), "wait=60");
    const zero = await api.call("POST", "/v1/checkpoints", { body, headers: { Prefer: "wait=0" } });
    assert.deepEqual([zero.status, zero.headers.get("preference-applied")], [202, "wait=0"]);
    const odd = await api.call("POST", "/v1/checkpoints", { body, headers: { Prefer: "wait=soon" } });
    assert.deepEqual([odd.status, odd.headers.get("preference-applied")], [202, null]);
  });

  test("429 with RateLimit headers and Retry-After once a minute's requests are used up", async () => {
    const hurried = createApp({ ...api.deps, settings: { ...api.settings, rateLimitPerMinute: 3 } });
    for (const remaining of [2, 1, 0]) {
      const { headers } = await hurried.request("/v1/operators");
      assert.match(headers.get("ratelimit") ?? "", new RegExp(`^"default";r=${remaining};t=\\d+$`));
      assert.equal(headers.get("ratelimit-policy"), '"default";q=3;w=60');
    }
    const refused = await hurried.request("/v1/operators");
    assert.deepEqual([refused.status, (await refused.json()).code], [429, "too_many_requests"]);
    const waitSeconds = Number(refused.headers.get("retry-after"));
    assert.ok(waitSeconds > 15 && waitSeconds <= 20, `${waitSeconds} s for a third of a minute`);
  });

  test("503 beyond the requests that may be in flight, and none is lost", async () => {
    const narrow = createApp({ ...api.deps, settings: { ...api.settings, maxConcurrentRequests: 1 } });
    const held = narrow.request("/v1/jobs");
    const refused = await narrow.request("/v1/jobs");
    assert.deepEqual([refused.status, (await refused.json()).code], [503, "unavailable"]);
    assert.ok(refused.headers.get("x-request-id"));
    assert.equal((await held).status, 200);
    assert.equal((await narrow.request("/v1/jobs")).status, 200);
  });

  test("503 from readiness, 200 from health, when the database is gone or the server stops", async () => {
    const store = { ...api.deps.store, ping: () => Promise.reject(new CodedError("store_unavailable", "no answer")) };
    const broken = createApp({ ...api.deps, store });
    assert.equal((await broken.request("/readyz")).status, 503);
    assert.equal((await broken.request("/healthz")).status, 200);
    const stopping = createApp({ ...api.deps, closing: AbortSignal.abort() });
    assert.equal((await stopping.request("/readyz")).status, 503);
  });

  test("500: an unknown failure shows nothing but its request id", async () => {
    const jobs = { ...api.deps.store.jobs, list: () => Promise.reject(new Error("secret cause")) };
    const broken = createApp({ ...api.deps, store: { ...api.deps.store, jobs } });
    const answer = await broken.request("/v1/jobs");
    const text = await answer.text();
    assert.deepEqual([answer.status, JSON.parse(text).code], [500, "internal"]);
    assert.ok(!text.includes("secret cause"));
  });

  test("metrics count by route template, never by path", async () => {
    await api.call("GET", "/v1/checkpoints/nobody-at-all");
    const { body, headers } = await api.call("GET", "/metrics");
    assert.match(headers.get("content-type") ?? "", /^text\/plain/);
    assert.match(
      body,
      /cambium_http_requests_total\{method="GET",route="\/v1\/checkpoints\/\{id\}",status="404"\} \d+/,
    );
    assert.ok(!String(body).includes("nobody-at-all"));
  });
});

describe("with keys", () => {
  let api: Harness;
  const secrets: Record<string, string> = {};
  const as = (scope: string) => ({ Authorization: `Bearer ${secrets[scope]}` });

  before(async () => {
    api = await startHarness();
    // the first key turns authentication on: all others need it
    const admin = await api.call("POST", "/v1/keys", { body: { name: "root", scopes: ["admin"] } });
    assert.equal(admin.status, 201);
    secrets["admin"] = admin.body.secret;
    for (const scope of ["read", "write"]) {
      const made = await api.call("POST", "/v1/keys", { body: { name: scope, scopes: [scope] }, headers: as("admin") });
      secrets[scope] = made.body.secret;
    }
  });
  after(() => api.close());

  test("401: every route but the open ones refuses a request without a key, known or not", async () => {
    const statuses = new Map<string, number>();
    for (const { id, method, path, scope } of contract.operations) {
      const { status } = await api.call(method.toUpperCase(), concrete(path));
      statuses.set(id, status);
      if (scope === "none") assert.notEqual(status, 401, id);
      else assert.equal(status, 401, id);
    }
    assert.ok(statuses.size > 40);
    const unknown = await api.call("GET", "/v1/unknown");
    assertProblem(unknown, 401, "unauthorized");
    assert.match(unknown.headers.get("www-authenticate") ?? "", /^Bearer/);
    assertProblem(await api.call("PUT", "/v1/jobs"), 401, "unauthorized");
  });

  test("401: a wrong, malformed or revoked key", async () => {
    for (const header of ["Bearer nonsense", "Bearer", "Basic abc", `Bearer ${secrets["read"]}x`, ""]) {
      assertProblem(await api.call("GET", "/v1/jobs", { headers: { Authorization: header } }), 401, "unauthorized");
    }
    const made = await api.call("POST", "/v1/keys", {
      body: { name: "short", scopes: ["read"] },
      headers: as("admin"),
    });
    const headers = { Authorization: `Bearer ${made.body.secret}` };
    assert.equal((await api.call("GET", "/v1/jobs", { headers })).status, 200);
    assert.deepEqual((await api.call("DELETE", `/v1/keys/${made.body.id}`, { headers: as("admin") })).body, {
      deleted: [made.body.id],
    });
    assertProblem(await api.call("GET", "/v1/jobs", { headers }), 401, "unauthorized");
    assertProblem(await api.call("DELETE", `/v1/keys/${made.body.id}`, { headers: as("admin") }), 404, "not_found");
  });

  test("403: a key does what its scope covers, on every route of the contract", async () => {
    const ranks: Record<string, number> = { read: 1, write: 2, admin: 3, worker: 3 };
    for (const { id, method, path, scope } of contract.operations.filter((one) => one.scope !== "none")) {
      for (const held of ["read", "write", "admin"]) {
        const { status } = await api.call(method.toUpperCase(), concrete(path), { headers: as(held) });
        if (ranks[held]! < ranks[scope]!) assert.equal(status, 403, `${id} with ${held}`);
        else assert.ok(status !== 401 && status !== 403, `${id} with ${held}: ${status}`);
      }
    }
  });

  test("secrets are shown once and never listed", async () => {
    const { body } = await api.call("GET", "/v1/keys", { headers: as("admin") });
    assert.equal(body.data.length, 3);
    assert.ok(!JSON.stringify(body).includes(secrets["read"]!));
    assert.deepEqual(Object.keys(body.data[0]).toSorted(), ["created_at", "id", "last_used_at", "name", "scopes"]);
  });

  test("any host name is answered once keys are asked for", async () => {
    assert.equal((await api.call("GET", "http://grow.example/v1/jobs", { headers: as("read") })).status, 200);
  });

  test("the keys of one principal are not those of another: idempotency", async () => {
    const body = { preset: "410m", operator: "direct", axis: "depth", factor: 2 };
    const headers = (scope: string) => ({ ...as(scope), "Idempotency-Key": "same" });
    await api.call("POST", "/v1/growth-plans", { body, headers: headers("read") });
    const other = await api.call("POST", "/v1/growth-plans", {
      body: { ...body, factor: 3 },
      headers: headers("write"),
    });
    assert.deepEqual([other.status, other.headers.get("idempotency-replayed")], [200, null]);
  });
});
