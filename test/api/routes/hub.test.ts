/** Hub sources over HTTP: through the real queue and a compute process, from a local server that behaves like the hub. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { singleFiles } from "../../engine/checkpoint/fixtures.ts";
import { fakeHub, repository } from "../../engine/checkpoint/hubServer.ts";
import { assertProblem, startHarness } from "../helpers/harness.ts";

test("a hub repository becomes a checkpoint whose files download byte for byte", async (t) => {
  const files = singleFiles();
  const hub = await fakeHub(t, { ...files, "pytorch_model.bin": "pickle" });
  const api = await startHarness({ environment: { HUB_ENDPOINT: hub.endpoint, HUB_TOKEN: "secret-token" } });
  t.after(() => api.close());

  const job = await api.work("/v1/checkpoints", { name: "hubbed", source: { type: "hub", repository } });
  const checkpoint = await api.call("GET", `/v1/checkpoints/${job.result.checkpoint}`);
  assert.equal(checkpoint.body.relation, "imported");
  const response = await api.fetch(`/v1/checkpoints/hubbed/files/model.safetensors`);
  const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");
  assert.equal(sha256(new Uint8Array(await response.arrayBuffer())), sha256(files["model.safetensors"] ?? ""));
  assert.equal(
    hub.seen.some(({ path }) => path.endsWith(".bin")),
    false,
    "a pickle was fetched",
  );
  assert.ok(hub.seen.some(({ host, authorization }) => host === "hub" && authorization === "Bearer secret-token"));
  assert.ok(hub.seen.every(({ host, authorization }) => host === "hub" || authorization === undefined));
});

test("a repository that the hub does not have fails the job with the hub's answer, and leaves nothing", async (t) => {
  const hub = await fakeHub(t, singleFiles());
  const api = await startHarness({ environment: { HUB_ENDPOINT: hub.endpoint } });
  t.after(() => api.close());
  const source = { type: "hub", repository: "owner/absent" };
  const { body } = await api.call("POST", "/v1/checkpoints", { body: { source }, headers: { Prefer: "wait=60" } });
  assert.equal(body.status, "failed");
  assert.match(body.error.message, /owner\/absent/);
  assert.deepEqual((await api.call("GET", "/v1/checkpoints")).body.data, []);
});

test("a name that is no repository is refused before any request to the hub", async (t) => {
  const hub = await fakeHub(t, singleFiles());
  const api = await startHarness({ environment: { HUB_ENDPOINT: hub.endpoint } });
  t.after(() => api.close());
  const body = { source: { type: "hub", repository: "../../etc/passwd" } };
  assertProblem(await api.call("POST", "/v1/checkpoints", { body }), 400, "invalid_request");
  assert.equal(hub.seen.length, 0);
});
