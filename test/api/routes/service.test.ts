/** Health, contract, documentation, backends, workers and keys, on one service. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { createApp } from "../../../src/api/app.ts";
import { loadContract } from "../../../src/api/contract.ts";
import { assertProblem, startHarness, type Harness } from "../helpers/harness.ts";

describe("service", () => {
  let api: Harness;
  before(async () => {
    api = await startHarness({ environment: { BACKENDS: "wasm,cpu" } });
  });
  after(() => api.close());

  test("health, readiness, and links that lead somewhere", async () => {
    assert.deepEqual((await api.call("GET", "/healthz")).body, { status: "ok" });
    assert.deepEqual((await api.call("GET", "/readyz")).body, { status: "ok" });
    const { body } = await api.call("GET", "/");
    assert.equal(body.version, loadContract().version);
    for (const path of Object.values(body.links as Record<string, string>))
      assert.equal((await api.call("GET", path)).status, 200, path);
  });

  test("the contract is served verbatim, with an ETag", async () => {
    const { body, headers } = await api.call("GET", "/openapi.yaml");
    assert.equal(body, loadContract().text);
    assert.match(headers.get("content-type") ?? "", /^application\/yaml/);
    const again = await api.call("GET", "/openapi.yaml", { headers: { "If-None-Match": headers.get("etag") ?? "" } });
    assert.equal(again.status, 304);
  });

  test("/docs has a policy that lets nothing in from elsewhere, and serves only its own files", async () => {
    const { body, headers } = await api.call("GET", "/docs");
    assert.match(headers.get("content-security-policy") ?? "", /default-src 'none'/);
    for (const [, source = ""] of String(body).matchAll(/(?:src|href)="([^"]+)"/g)) {
      assert.match(source, /^(\/docs\/|data:)/);
      if (source.startsWith("/")) assert.equal((await api.call("GET", source)).status, 200, source);
    }
    assertProblem(await api.call("GET", "/docs/package.json"), 404, "not_found");
    assertProblem(await api.call("GET", "/docs/..%2Fpackage.json"), 400, "invalid_request");
  });

  test("backends say whether they work here; a switched-off one and a hanging probe say why not", async () => {
    const { body } = await api.call("GET", "/v1/backends");
    const wasm = body.data.find((backend: { name: string }) => backend.name === "wasm");
    assert.deepEqual([wasm.available, wasm.reason], [true, null]);
    const settings = { ...api.settings, backends: ["cpu"] };
    const app = createApp({ ...api.deps, settings });
    const limited = (await (await app.request("/v1/backends")).json()).data.find(
      (one: { name: string }) => one.name === "wasm",
    );
    assert.equal(limited.available, false);
    assert.match(limited.reason, /BACKENDS/);
  });

  test("probes are remembered for a while, and asked once for many requests", async () => {
    let probes = 0;
    const slow = {
      name: "slow",
      description: "waits",
      preference: 1,
      probe: async () => {
        probes += 1;
        return { available: true, reason: null, device: null, features: {}, memoryBytes: null };
      },
    };
    const app = createApp({ ...api.deps, settings: { ...api.settings, backends: null }, backends: async () => [slow] });
    await Promise.all(Array.from({ length: 5 }, async () => app.request("/v1/backends")));
    assert.equal(probes, 1);
  });

  test("workers: every runner of jobs shows itself, with its process", async () => {
    const { body } = await api.call("GET", "/v1/workers");
    assert.equal(body.data.length, api.services.store.kind === "pglite" ? 1 : 2);
    for (const worker of body.data) assert.equal(worker.pid, process.pid);
  });

  test("keys: bad names and scopes are refused", async () => {
    for (const body of [
      { name: "", scopes: ["read"] },
      { name: "a", scopes: [] },
      { name: "a", scopes: ["root"] },
      { name: "a", scopes: ["read", "read"] },
    ]) {
      assertProblem(await api.call("POST", "/v1/keys", { body }), 400, "invalid_request");
    }
  });
});
