/** Trainings and jobs over HTTP: the whole life of a job, its stream and its curve. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { assertProblem, startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const text = "The quick brown fox jumps over the lazy dog. ".repeat(60);
const documents = Array.from({ length: 20 }, (_, index) => `${index}: ${text}`);

const onWorkers = process.env["CAMBIUM_TEST_DATABASE"] === "postgres";
const waitsInstead = "where workers compute, a job that none of them can do waits for one that can";

/** A training of `steps` steps of 32 tokens. */
const training = (steps: number, more: object = {}) => ({
  ...{ checkpoint: "base", dataset: "text", tokens: 32 * steps, batch_tokens: 32, sequence_length: 16 },
  ...{ optimizer: { learning_rate: 0.01 }, validation_tokens: 64, ...more },
});

interface StreamedEvent {
  id: number;
  event: string;
  data: { seq: number; type: string; data: { status?: string } };
}

async function readStream(response: Response): Promise<StreamedEvent[]> {
  const blocks = (await response.text()).split("\n\n").filter((block) => block !== "" && !block.startsWith(":"));
  return blocks.map((block) => {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1] ?? "";
    return { id: Number(field("id")), event: field("event"), data: JSON.parse(field("data")) };
  });
}

describe("jobs", () => {
  let api: Harness;
  let done: string;

  before(async () => {
    api = await startHarness();
    await api.work("/v1/checkpoints", { name: "base", source: tinySource });
    await api.work("/v1/datasets", {
      name: "text",
      source: { type: "text", text: documents },
      tokenizer: "bytes",
      validation_fraction: 0.1,
    });
    done = (await api.work("/v1/trainings", training(6, { name: "trained", seed: 3 }))).id;
  });
  after(() => api.close());

  test("a training ends with a checkpoint, its losses, tokens and FLOPs", async () => {
    const { body } = await api.call("GET", `/v1/jobs/${done}`);
    assert.equal(body.kind, "training");
    assert.equal(body.result.tokens, 192);
    assert.ok(body.result.train_loss > 0 && body.result.validation_loss > 0);
    assert.equal(body.progress.fraction, 1);
    assert.equal(body.request.optimizer.learning_rate, 0.01);
    const checkpoint = (await api.call("GET", `/v1/checkpoints/${body.result.checkpoint}`)).body;
    assert.equal(checkpoint.relation, "trained");
    assert.equal(checkpoint.tokens_seen, 192);
    assert.equal(checkpoint.flops_spent, body.result.flops);
    assert.equal(body.result.flops, 6 * checkpoint.num_parameters * 192);
  });

  test("events: a list from any point on, pages, and a filter by type", async () => {
    const all = (await api.call("GET", `/v1/jobs/${done}/events?limit=1000`)).body;
    assert.deepEqual(
      all.data.map((event: { seq: number }) => event.seq),
      all.data.map((_: unknown, index: number) => index + 1),
    );
    assert.equal(all.has_more, false);
    const page = (await api.call("GET", `/v1/jobs/${done}/events?limit=2&after=1`)).body;
    assert.deepEqual(page.data, all.data.slice(1, 3));
    assert.deepEqual([page.has_more, page.next], [true, "3"]);
    const metrics = (await api.call("GET", `/v1/jobs/${done}/events?type=metrics`)).body.data;
    assert.ok(metrics.length >= 6 && metrics.every((event: { type: string }) => event.type === "metrics"));
    assertProblem(await api.call("GET", `/v1/jobs/${done}/events?type=other`), 400, "invalid_request");
    assertProblem(await api.call("GET", "/v1/jobs/job_0/events"), 404, "not_found");
  });

  test("the stream of an ended job is its whole list, then ends; Last-Event-ID goes on from there", async () => {
    const headers = { Accept: "text/event-stream" };
    const response = await api.fetch(`/v1/jobs/${done}/events`, { headers });
    assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
    const streamed = await readStream(response);
    const listed = (await api.call("GET", `/v1/jobs/${done}/events?limit=1000`)).body.data;
    assert.deepEqual(
      streamed.map(({ data }) => data),
      listed,
    );
    assert.ok(streamed.every(({ id, event, data }) => id === data.seq && event === data.type));
    const rest = await api.fetch(`/v1/jobs/${done}/events?after=1`, { headers: { ...headers, "Last-Event-ID": "3" } });
    assert.deepEqual(
      (await readStream(rest)).map(({ id }) => id),
      streamed.slice(3).map(({ id }) => id),
    );
  });

  test("a stream follows a job live, to its end, from before it has begun", async () => {
    const { body } = await api.call("POST", "/v1/trainings", { body: training(4) });
    const response = await api.fetch(`/v1/jobs/${body.id}/events`, { headers: { Accept: "text/event-stream" } });
    const streamed = await readStream(response);
    const listed = (await api.call("GET", `/v1/jobs/${body.id}/events?limit=1000`)).body.data;
    assert.deepEqual(
      streamed.map(({ id }) => id),
      listed.map((event: { seq: number }) => event.seq),
    );
    assert.equal(streamed.filter(({ event }) => event === "status").at(-1)?.data.data.status, "succeeded");
  });

  test("a reader that leaves frees its place in the source", async () => {
    const { body } = await api.call("POST", "/v1/trainings", { body: training(4_000) });
    const response = await api.fetch(`/v1/jobs/${body.id}/events`, { headers: { Accept: "text/event-stream" } });
    const reader = response.body!.getReader();
    assert.match(new TextDecoder().decode((await reader.read()).value), /^id: 1\n/);
    await reader.cancel();
    assert.equal(
      (await api.call("POST", `/v1/jobs/${body.id}/cancel`, { headers: { Prefer: "wait=60" } })).body.status,
      "cancelled",
    );
  });

  test("metrics: the curve as JSON and the same as CSV", async () => {
    const { body } = await api.call("GET", `/v1/jobs/${done}/metrics`);
    const trained = body.data.filter((point: { loss: number | null }) => point.loss !== null);
    assert.deepEqual(
      trained.map((point: { step: number }) => point.step),
      [1, 2, 3, 4, 5, 6],
    );
    assert.deepEqual(
      trained.map((point: { tokens: number }) => point.tokens),
      [32, 64, 96, 128, 160, 192],
    );
    const csv = await api.fetch(`/v1/jobs/${done}/metrics`, { headers: { Accept: "text/csv" } });
    assert.match(csv.headers.get("content-type") ?? "", /^text\/csv/);
    const [head, ...lines] = (await csv.text()).trimEnd().split("\r\n");
    assert.equal(head, "step,tokens,flops,loss,validation_loss,learning_rate,grad_norm,tokens_per_second");
    assert.equal(lines.length, body.data.length);
    assert.deepEqual(
      lines.map((line) => Number(line.split(",")[2])),
      body.data.map((point: { flops: number }) => point.flops),
    );
  });

  test("pause at a resume point, 409 for what the state forbids, resume, cancel", async () => {
    const { body: job } = await api.call("POST", "/v1/trainings", { body: training(20_000) });
    const path = `/v1/jobs/${job.id}`;
    const act = (what: string) => api.call("POST", `${path}/${what}`, { headers: { Prefer: "wait=60" } });
    assertProblem(await act("resume"), 409, "conflict");
    while ((await api.call("GET", path)).body.progress.fraction === 0)
      await new Promise((resolve) => setTimeout(resolve, 50));
    const paused = await act("pause");
    assert.deepEqual([paused.status, paused.body.status], [200, "paused"], JSON.stringify(paused.body));
    const resumed = await api.call("POST", `${path}/resume`);
    assert.equal(resumed.status, 202, JSON.stringify(resumed.body));
    const cancelled = await act("cancel");
    assert.deepEqual([cancelled.status, cancelled.body.status], [200, "cancelled"]);
    for (const what of ["cancel", "pause", "resume"]) assertProblem(await act(what), 409, "conflict");
    assertProblem(await api.call("POST", "/v1/jobs/job_0/cancel"), 404, "not_found");
    assertProblem(await api.call("POST", `${path}/cancel`, { body: { force: true } }), 400, "invalid_request");
  });

  test("a job that is not a training cannot be paused", async () => {
    assertProblem(
      await api.call(
        "POST",
        `/v1/jobs/${(await api.call("GET", "/v1/jobs?kind=dataset_build")).body.data[0].id}/pause`,
      ),
      409,
      "conflict",
    );
  });

  test("lists filter by kind and status", async () => {
    const kinds = async (query: string) =>
      new Set(
        (await api.call("GET", `/v1/jobs?limit=100&${query}`)).body.data.map((job: { kind: string }) => job.kind),
      );
    assert.deepEqual(await kinds("kind=dataset_build"), new Set(["dataset_build"]));
    assert.deepEqual(await kinds("status=failed"), new Set());
    assertProblem(await api.call("GET", "/v1/jobs?status=done"), 400, "invalid_request");
  });

  test("404 and 422 before anything is queued: unknown ids, sizes that do not fit, unknown backends", async () => {
    const post = (change: object) => api.call("POST", "/v1/trainings", { body: training(2, change) });
    const unknown = await post({ dataset: "nothing" });
    assertProblem(unknown, 404, "not_found");
    assert.equal(unknown.body.errors[0].pointer, "/dataset");
    assert.ok((await post({ sequence_length: 65 })).status === 422);
    assert.ok((await post({ batch_tokens: 33 })).status === 422);
    assertProblem(await post({ backend: "abacus" }), 422, "backend_unavailable");
    assertProblem(await post({ tokens: 0 }), 400, "invalid_request");
  });

  test("422 before anything is queued: a training that no memory holds, with what it needs and who could", async (t) => {
    if (onWorkers) return t.skip(waitsInstead);
    const sequences = 1_000_000;
    const huge = { micro_batch_sequences: sequences, batch_tokens: sequences * 32, sequence_length: 32 };
    const post = (change: object) => api.call("POST", "/v1/trainings", { body: training(2, { ...huge, ...change }) });
    for (const backend of ["auto", "wasm"]) {
      const refused = await post({ backend });
      assertProblem(refused, 422, "model_too_large");
      assert.equal(refused.body.errors[0].pointer, "/backend");
      const said = /needs about \d+ bytes, \d+ are there; (there is room on backend|no backend here has room)/;
      assert.match(refused.body.detail, said);
      assert.ok(refused.body.details.neededBytes > 1e10);
      assert.ok(!refused.body.details.backendsWithRoom.includes("wasm"));
    }
  });

  test("precisions are refused by name on a backend that cannot", async (t) => {
    if (onWorkers) return t.skip(waitsInstead);
    const post = (change: object) => api.call("POST", "/v1/trainings", { body: training(2, change) });
    for (const precision of ["bf16", "mixed_f16"]) {
      const refused = await post({ backend: "wasm", precision });
      assertProblem(refused, 422, "backend_unavailable");
      assert.match(refused.body.detail, new RegExp(`wasm does not train with precision ${precision}`));
    }
    assertProblem(await post({ precision: "f16" }), 400, "invalid_request");
  });

  test("precision: bf16 trains where the processor and the library can", async (t) => {
    const { data } = (await api.call("GET", "/v1/backends")).body;
    const native = data.find(({ name }: { name: string }) => name === "native");
    if (!native?.available || native.features.bf16 === false) return t.skip("no oneDNN or no bfloat16 here");
    assert.match(native.features.bf16, /^oneDNN/);
    const job = await api.work("/v1/trainings", training(2, { precision: "bf16" }));
    assert.equal(job.request.precision, "bf16");
    assert.equal(job.result.backend, "native");
    const { body } = await api.call("GET", `/v1/jobs/${job.id}/events?limit=100`);
    assert.ok(body.data.some((event: { message?: string }) => /kernels native-bf16/.test(JSON.stringify(event))));
  });

  test("precision: mixed_f16 trains where the GPU has 16-bit floats", async (t) => {
    if (onWorkers) return t.skip("the workers of this run have no GPU");
    const { data } = (await api.call("GET", "/v1/backends")).body;
    const webgpu = data.find(({ name }: { name: string }) => name === "webgpu");
    if (!webgpu?.available) return t.skip(webgpu?.reason ?? "there is no webgpu");
    if (!webgpu.features.mixed_f16) return t.skip(webgpu.features.mixed_f16_reason);
    const job = await api.work("/v1/trainings", training(2, { backend: "webgpu", precision: "mixed_f16" }));
    assert.equal(job.request.precision, "mixed_f16");
    const { body } = await api.call("GET", `/v1/jobs/${job.id}/events?limit=100`);
    assert.match(JSON.stringify(body.data), /kernels webgpu-(lanes|tiles)-f16/);
  });
});
