/** Which workers may run a job: selectors are words, sizes count, and a reason is given where none will do. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import * as selectors from "../../../src/engine/jobs/selector.ts";
import { waitingReason } from "../../../src/engine/jobs/waiting.ts";
import type { QueuedJob } from "../../../src/engine/store/jobTypes.ts";
import type { JobRow } from "../../../src/engine/store/types.ts";
import type { WorkerBackend, WorkerRow } from "../../../src/engine/store/workerTypes.ts";

const { backendFor, bytesOf, canServe, formatSelector, parseSelector, pickBackend, selectorOf } = selectors;
const gib = 2 ** 30;

function backend(name: string, preference: number, memoryBytes: number | null, available = true): WorkerBackend {
  const reason = available ? null : "no adapter";
  return { name, preference, available, automatic: true, reason, device: "d", memoryBytes };
}

const cpuOnly = [backend("cpu", 0, 8 * gib), backend("wasm", 10, 4 * gib)];
const withGpu = [...cpuOnly, backend("webgpu", 30, 16 * gib)];

function job(kind: string, request: JsonObject = {}, more: Partial<QueuedJob> = {}): QueuedJob {
  return { kind, request, backend: null, needsBytes: null, ...more };
}

function worker(backends: readonly WorkerBackend[], more: Partial<WorkerRow> = {}): WorkerRow {
  return {
    ...{ id: "w", hostname: "h", pid: 1, backends, memoryBytes: gib, needs: ["files", "benchmarks"] },
    ...{ places: { compute: 1, prepare: 1 }, running: { compute: [], prepare: [] } },
    ...{ startedAt: new Date(), heartbeatAt: new Date(), state: "alive", ...more },
  };
}

function queued(asked: QueuedJob, more: Partial<JobRow> = {}): JobRow {
  const row = {
    ...asked,
    status: "queued",
    selector: formatSelector(selectorOf(asked)),
    queuedAt: new Date(),
    ...more,
  };
  return row as JobRow;
}

describe("selectors", () => {
  test("say what kind of place a job needs, and nothing more", () => {
    const named = (asked: QueuedJob) => formatSelector(selectorOf(asked));
    assert.equal(named(job("training", { backend: "webgpu" })), "compute.webgpu.0.nothing");
    assert.equal(named(job("training")), "compute.auto.0.nothing");
    assert.equal(named(job("training", { backend: "auto" }, { backend: "wasm" })), "compute.wasm.0.nothing");
    assert.equal(named(job("training", {}, { needsBytes: 4 * gib })), "compute.auto.256.nothing");
    assert.equal(named(job("training", { precision: "f32" })), "compute.auto.0.nothing");
    for (const precision of ["bf16", "mixed_f16"]) {
      assert.equal(named(job("training", { precision })), `compute.auto.0.nothing.${precision}`);
    }
    assert.equal(named(job("evaluation")), "compute.auto.0.benchmarks");
    assert.equal(named(job("growth")), "prepare.-.0.nothing");
    assert.equal(named(job("growth", { operator: "learn", params: { backend: "cpu" } })), "compute.cpu.0.nothing");
    assert.equal(named(job("checkpoint_import", { source: { type: "random" } })), "prepare.-.0.nothing");
    assert.equal(named(job("checkpoint_import", { source: { type: "upload" } })), "prepare.-.0.files");
    assert.equal(named(job("dataset_build", { source: { type: "directory" } })), "prepare.-.0.files");
  });

  test("are read as they were written, and any other text is none", () => {
    const some = fc.record({
      lane: fc.constantFrom("compute" as const, "prepare" as const),
      backend: fc.constantFrom(null, "auto", "wasm", "tfjs-webgpu"),
      sizeClass: fc.nat(400),
      need: fc.constantFrom("nothing" as const, "files" as const, "benchmarks" as const),
    });
    fc.assert(fc.property(some, (one) => assert.deepEqual(parseSelector(formatSelector(one)), { ...one })));
    const bf16 = { lane: "compute", backend: "native", sizeClass: 7, need: "nothing", precision: "bf16" } as const;
    assert.deepEqual(parseSelector(formatSelector(bf16)), bf16);
    for (const text of [
      "",
      "compute",
      "compute.auto.x.nothing",
      "compute.auto.0.nothing.more",
      "jobs.compute.auto.0.files",
    ])
      assert.equal(parseSelector(text), null, text);
  });

  test("never promise less memory than asked for, and at most a tenth more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 2 ** 50 }), (needsBytes) => {
        const bytes = bytesOf(selectorOf(job("training", {}, { needsBytes }))) ?? 0;
        assert.ok(bytes >= needsBytes * (1 - 1e-12) && bytes <= needsBytes * 1.1, `${bytes} for ${needsBytes}`);
      }),
    );
  });
});

describe("a worker", () => {
  const auto = (needsBytes: number) => selectorOf(job("training", {}, { needsBytes }));
  test("takes for `auto` the most preferred backend that is available and large enough", () => {
    assert.equal(backendFor(auto(gib), withGpu)?.name, "webgpu");
    assert.equal(backendFor(auto(gib), cpuOnly)?.name, "wasm");
    assert.equal(backendFor(auto(6 * gib), cpuOnly)?.name, "cpu");
    assert.equal(backendFor(auto(9 * gib), withGpu)?.name, "webgpu");
    assert.equal(backendFor(auto(17 * gib), withGpu), null);
    assert.equal(backendFor(auto(gib), [backend("webgpu", 30, null, false), ...cpuOnly])?.name, "wasm");
    const byName = withGpu.map((one) => ({ ...one, automatic: one.name !== "webgpu" }));
    assert.equal(backendFor(auto(gib), byName)?.name, "wasm");
    assert.equal(backendFor(selectorOf(job("training", { backend: "webgpu" })), byName)?.name, "webgpu");
    assert.equal(backendFor(auto(900 * gib), [backend("webgpu", 30, null)])?.name, "webgpu");
  });

  test("serves a named backend only where it has it, and files only where they are at hand", () => {
    const named = selectorOf(job("training", { backend: "webgpu" }));
    assert.equal(canServe(named, worker(cpuOnly)), false);
    assert.equal(canServe(named, worker(withGpu)), true);
    const files = selectorOf(job("checkpoint_import", { source: { type: "directory" } }));
    assert.equal(canServe(files, worker(withGpu, { needs: [] })), false);
    assert.equal(canServe(files, worker([])), true);
  });

  test("that cannot do a job after all says why", () => {
    const pick = (asked: QueuedJob, backends: readonly WorkerBackend[]) => () =>
      pickBackend(selectorOf(asked), backends);
    assert.throws(pick(job("training", { backend: "wasm" }, { needsBytes: 5 * gib }), cpuOnly), {
      code: "model_too_large",
      message: /backend wasm: the model needs about \d+ bytes, 4294967296 are there/,
    });
    assert.throws(pick(job("training", { backend: "wasm" }, { needsBytes: 5 * gib }), withGpu), {
      message: /there is room on backend cpu, webgpu/,
    });
    assert.throws(pick(job("training", {}, { needsBytes: 50 * gib }), withGpu), {
      message: /no backend here has room for it/,
    });
    const off = [backend("webgpu", 30, null, false)];
    const unavailable = { code: "backend_unavailable", message: /webgpu: no adapter/ };
    assert.throws(pick(job("training", { backend: "webgpu" }), off), unavailable);
    assert.throws(pick(job("training", { backend: "native" }), off), { message: /not among BACKENDS/ });
    // `auto` says of each backend why it is not the one: what could be named instead, too
    const software = { ...backend("webgpu", 30, gib), automatic: false, precisions: { mixed_f16: null } };
    assert.throws(pick(job("training"), [software]), { message: /auto is not available: webgpu: .*by name only/ });
    assert.throws(pick(job("training", { precision: "mixed_f16" }), [software, ...cpuOnly]), {
      message: /webgpu: .*by name only.*; .*wasm: wasm does not train with precision mixed_f16/,
    });
  });
});

describe("a training with precision bf16", () => {
  const native = { ...backend("native", 20, 4 * gib), precisions: { bf16: null } };
  const without = { ...native, precisions: { bf16: "precision bf16: no oneDNN library was found" } };
  const asked = (request: JsonObject = {}, needsBytes = gib) =>
    selectorOf(job("training", { precision: "bf16", ...request }, { needsBytes }));
  test("goes to a backend that can, past a preferred one that cannot", () => {
    assert.equal(backendFor(asked(), [...withGpu, native])?.name, "native");
    assert.equal(backendFor(asked(), [...withGpu, without]), null);
    assert.equal(backendFor(selectorOf(job("training", { precision: "f32" })), [...cpuOnly, without])?.name, "native");
    assert.equal(canServe(asked({ backend: "wasm" }), worker([...cpuOnly, native])), false);
  });

  test("is refused with the reason where no backend can", () => {
    const pick = (request: JsonObject, backends: WorkerBackend[]) => () => pickBackend(asked(request), backends);
    const refused = (message: RegExp) => ({ code: "backend_unavailable", message });
    assert.throws(
      pick({ backend: "wasm" }, [...cpuOnly, native]),
      refused(/wasm: wasm does not train with precision bf16/),
    );
    assert.throws(pick({}, [...cpuOnly, without]), refused(/native: precision bf16: no oneDNN library was found/));
    assert.throws(() => pickBackend(asked({}, 5 * gib), [...cpuOnly, native]), { code: "model_too_large" });
  });
});

describe("a queued job says why it waits", () => {
  const onGpu = queued(job("training", { backend: "webgpu" }, { needsBytes: 20 * gib }));
  const reason = (row: JobRow, ...workers: WorkerRow[]) => waitingReason(row, workers) ?? "";
  test("for a worker, for a backend, for memory, for files", () => {
    assert.match(reason(onGpu), /no worker is alive/);
    assert.match(reason(onGpu, worker(withGpu, { state: "lost" })), /no worker is alive/);
    assert.match(reason(onGpu, worker(cpuOnly)), /no living worker has backend webgpu; theirs are cpu, wasm/);
    assert.match(reason(onGpu, worker(withGpu)), /about 214\d+ bytes on backend webgpu; the most .* is 17179869184/);
    const upload = queued(job("checkpoint_import", { source: { type: "upload" } }));
    assert.match(reason(upload, worker(cpuOnly, { needs: [] })), /DATA_DIR/);
  });

  test("for a free place, for a pause between attempts, or not at all", () => {
    const busy = { running: { compute: ["job_1"], prepare: [] } };
    const auto = queued(job("training"));
    assert.match(reason(auto, worker(cpuOnly, busy)), /the one worker that can do it is busy/);
    assert.match(reason(auto, worker(cpuOnly, busy), worker(withGpu, busy)), /all 2 workers/);
    assert.equal(waitingReason(auto, [worker(cpuOnly, busy), worker(withGpu)]), null);
    const later = queued(job("training"), { queuedAt: new Date(Date.now() + 30_000) });
    assert.match(reason(later, worker(cpuOnly)), /tried again in 30 s/);
    assert.equal(waitingReason({ ...auto, status: "running" }, []), null);
  });
});
