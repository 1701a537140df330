/** The real handlers, from request to rows: what each kind of job makes, and what it leaves behind when it fails. */
import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import { writeViewFiles } from "../../../src/engine/checkpoint/view.ts";
import { sweepOnce } from "../../../src/engine/jobs/sweeper.ts";
import { importOf, openTestBed, tinyConfig, type TestBed } from "./harness.ts";

/** Lengthens the header by spaces: the same tensors in a file that is no blob of the store yet. */
function pad(path: string): void {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerBytes + 8));
  const header = file.subarray(8, 8 + headerBytes);
  writeFileSync(path, Buffer.concat([length, header, Buffer.from(" ".repeat(8)), file.subarray(8 + headerBytes)]));
}

describe("job handlers", () => {
  let bed: TestBed;
  let exported: string;
  before(async () => {
    bed = await openTestBed({});
    const { queue, store, settings } = bed.services;
    await bed.until((await queue.submit("checkpoint_import", importOf("", "base"))).id, "succeeded");
    exported = join(settings.importRoots[0]!, "exported");
    mkdirSync(exported, { recursive: true });
    await writeViewFiles(await store.checkpoints.resolve(await store.checkpoints.get("base")), exported);
    pad(join(exported, "model.safetensors"));
  });
  after(() => bed.dispose());

  function blobFiles(): string[] {
    const { blobDir } = bed.services;
    return readdirSync(blobDir, { recursive: true, encoding: "utf8" }).filter((name) => /[0-9a-f]{64}$/.test(name));
  }

  test("a random checkpoint is the same for the same seed, speaks bytes when asked, and shares its blob", async () => {
    const { queue, store } = bed.services;
    const before = blobFiles().length;
    const { id } = await queue.submit("checkpoint_import", importOf("", "twin"));
    await bed.until(id, "succeeded");
    const [base, twin] = [await store.checkpoints.get("base"), await store.checkpoints.get("twin")];
    assert.equal(twin.digest, base.digest);
    assert.equal(twin.relation, "initialized");
    assert.equal(twin.manifest.tokenizer, "bytes");
    assert.equal(twin.job, id);
    assert.equal(twin.storedBytes, 0);
    assert.equal(blobFiles().length, before);
  });

  test("a directory is registered by reference without a byte of weights copied, or by copy", async () => {
    const { queue, store } = bed.services;
    const base = await store.checkpoints.get("base");
    for (const mode of ["reference", "copy"] as const) {
      const job = await queue.submit("checkpoint_import", {
        name: mode,
        source: { type: "directory", path: exported, mode },
      });
      await bed.until(job.id, "succeeded");
      const row = await store.checkpoints.get(mode);
      assert.equal(row.digest, base.digest);
      assert.equal(row.relation, "imported");
      const { blobs } = await store.checkpoints.resolve(row);
      const weights = row.manifest.tensors[0]!.blob;
      if (mode === "reference") assert.equal(blobs[weights]?.path, join(exported, "model.safetensors"));
      else assert.ok(blobs[weights]?.path.startsWith(bed.services.blobDir));
    }
  });

  test("finished uploads become a checkpoint and are used up; unfinished ones are refused", async () => {
    const { queue, store, settings } = bed.services;
    const upload = ["upl_config", "upl_weights"];
    for (const [index, filename] of ["config.json", "model.safetensors"].entries()) {
      const path = join(settings.uploadsDir, upload[index]!);
      copyFileSync(join(exported, filename), path);
      writeFileSync(`${path}.json`, JSON.stringify({ size: statSync(path).size, metadata: { filename } }));
    }
    const job = await queue.submit("checkpoint_import", { name: "uploaded", source: { type: "upload", upload } });
    await bed.until(job.id, "succeeded");
    assert.equal((await store.checkpoints.get("uploaded")).digest, (await store.checkpoints.get("base")).digest);
    while (readdirSync(settings.uploadsDir).length > 0) await store.jobs.changed(job.id, 50);
    writeFileSync(join(settings.uploadsDir, "half"), "ab");
    writeFileSync(
      join(settings.uploadsDir, "half.json"),
      JSON.stringify({ size: 3, metadata: { filename: "config.json" } }),
    );
    const half = queue.submit("checkpoint_import", { source: { type: "upload", upload: "half" } });
    await assert.rejects(
      half,
      (error) => error instanceof CodedError && error.code === "conflict" && /2 of 3 bytes/.test(error.message),
    );
  });

  test("a corrupt directory fails its job, naming what is wrong, and registers nothing", async () => {
    const { queue, store, settings } = bed.services;
    const folder = join(settings.importRoots[0]!, "corrupt");
    mkdirSync(folder);
    copyFileSync(join(exported, "config.json"), join(folder, "config.json"));
    writeFileSync(join(folder, "model.safetensors"), Buffer.alloc(100, 255));
    const count = (await store.checkpoints.list({ limit: 100 })).rows.length;
    const { id } = await queue.submit("checkpoint_import", { source: { type: "directory", path: folder } });
    const row = await bed.until(id, "failed");
    assert.equal(row.error?.code, "checkpoint_corrupt");
    assert.equal(row.attempts, 1);
    assert.equal((await store.checkpoints.list({ limit: 100 })).rows.length, count);
  });

  test("growth by reference writes no tensor byte, takes the base's blobs and carries its history", async () => {
    const { queue, store } = bed.services;
    const files = blobFiles().length;
    const request = { checkpoint: "base", operator: "direct", axis: "depth", factor: 2, name: "grown" } as const;
    const plain = await bed.until((await queue.submit("growth", { ...request, verify: false })).id, "succeeded");
    const measured = await bed.until((await queue.submit("growth", request)).id, "succeeded");
    assert.equal(blobFiles().length, files);
    const [base, grown] = [await store.checkpoints.get("base"), await store.checkpoints.get("grown")];
    assert.equal(grown.manifest.config.numHiddenLayers, 4);
    assert.equal(grown.storedBytes, 0);
    assert.equal(grown.manifest.tokenizer, "bytes");
    assert.deepEqual(grown.parents, [{ checkpoint: base.id, relation: "grown" }]);
    assert.deepEqual(
      new Set(grown.manifest.tensors.map((tensor) => tensor.blob)),
      new Set([base.manifest.tensors[0]!.blob]),
    );
    const receipt = grown.receipt!;
    assert.deepEqual(receipt["layer_map"], [0, 1, 0, 1]);
    assert.equal(receipt["new_bytes"], 0);
    assert.equal(receipt["digest"], grown.digest);
    assert.equal(receipt["verified"], true);
    assert.ok((receipt["max_abs_logit_change"] as number) > 0);
    assert.equal((plain.result?.["receipt"] as { verified: boolean }).verified, false);
    assert.deepEqual(measured.result?.["receipt"], receipt);
    // the measured time is the machine's business; that nothing was started is not
    const ms = plain.finishedAt!.getTime() - plain.startedAt!.getTime();
    assert.ok(ms < 1_000, `${ms} ms`);
  });

  test("what cannot be grown is refused before any job exists, with a pointer", async () => {
    const { queue, store } = bed.services;
    const jobs = (await store.jobs.list({ limit: 100, kind: "growth" })).rows.length;
    const base = { checkpoint: "base", operator: "direct", axis: "depth" } as const;
    const points = (pointer: string) => (error: unknown) =>
      error instanceof CodedError && error.fields[0]?.pointer === pointer;
    await assert.rejects(queue.submit("growth", { ...base, operator: "magic", factor: 2 }), points("/operator"));
    await assert.rejects(queue.submit("growth", { ...base, factor: 0 }), points("/factor"));
    await assert.rejects(
      queue.submit("growth", { ...base, factor: 2, optimizer_state: "grow" }),
      points("/optimizer_state"),
    );
    assert.equal((await store.jobs.list({ limit: 100, kind: "growth" })).rows.length, jobs);
  });

  test("a base is trained, grown with its optimizer state and trained on from where its data ended", async () => {
    const { queue, store } = bed.services;
    const text = Array.from({ length: 100 }, (_, i) => `line ${i} of a small corpus, and then some more of it`);
    const build = {
      name: "corpus",
      source: { type: "text" as const, text },
      tokenizer: "bytes" as const,
      validation_fraction: 0.2,
    };
    const built = await bed.until((await queue.submit("dataset_build", build)).id, "succeeded");
    const dataset = await store.datasets.get("corpus");
    assert.equal(built.result?.["dataset"], dataset.id);
    const request = {
      dataset: "corpus",
      tokens: 512,
      batch_tokens: 256,
      sequence_length: 32,
      keep_optimizer_state: true,
    };
    const first = await queue.submit("training", { ...request, checkpoint: "base", name: "first" });
    await bed.until(first.id, "succeeded");
    const trained = await store.checkpoints.get("first");
    assert.equal(trained.tokensSeen, 512);
    assert.deepEqual(trained.dataSeen, { [dataset.id]: 512 });
    assert.ok(trained.manifest.optimizer);
    const growth = {
      checkpoint: "first",
      operator: "direct",
      axis: "depth",
      factor: 2,
      optimizer_state: "grow",
      name: "big",
    } as const;
    await bed.until((await queue.submit("growth", growth)).id, "succeeded");
    const grown = await store.checkpoints.get("big");
    assert.equal(grown.manifest.optimizer?.firstMoments.length, grown.manifest.tensors.length);
    assert.equal(grown.flopsSpent, trained.flopsSpent);
    const second = await bed.until(
      (await queue.submit("training", { ...request, checkpoint: "big", name: "second" })).id,
      "succeeded",
    );
    const continued = await store.checkpoints.get("second");
    assert.equal(continued.tokensSeen, 1024);
    assert.deepEqual(continued.dataSeen, { [dataset.id]: 1024 });
    assert.equal(continued.flopsSpent, trained.flopsSpent + (second.result?.["flops"] as number));
    assert.equal(second.backend, second.result?.["backend"]);
    await assert.rejects(store.datasets.get("none"), { code: "not_found" });
  });

  test("trainings that cannot fit are refused with a pointer", async () => {
    const { queue } = bed.services;
    const request = { checkpoint: "base", dataset: "corpus", tokens: 512, batch_tokens: 256, sequence_length: 32 };
    const points = (pointer: string) => (error: unknown) =>
      error instanceof CodedError && error.fields[0]?.pointer === pointer;
    await assert.rejects(queue.submit("training", { ...request, sequence_length: 128 }), points("/sequence_length"));
    await assert.rejects(queue.submit("training", { ...request, batch_tokens: 250 }), points("/batch_tokens"));
    await assert.rejects(
      queue.submit("training", { ...request, micro_batch_sequences: 3 }),
      points("/micro_batch_sequences"),
    );
    await assert.rejects(queue.submit("training", { ...request, backend: "abacus" }), points("/backend"));
    await assert.rejects(
      queue.submit("training", { ...request, optimizer: { betas: [2, 0.5] } }),
      points("/optimizer/betas"),
    );
  });

  test("an evaluation finds its task's file, stores its results, and is refused without file or tokenizer", async () => {
    const { queue, store, settings } = bed.services;
    const request = { checkpoint: "base", tasks: ["lambada_openai"], bootstrap_iterations: 10 };
    const points = (pointer: string) => (error: unknown) =>
      error instanceof CodedError && error.fields[0]?.pointer === pointer;
    await assert.rejects(queue.submit("evaluation", request), points("/tasks/0"));
    await assert.rejects(queue.submit("evaluation", { ...request, tasks: ["astrology"] }), points("/tasks/0"));
    const folder = join(settings.benchmarksDir, "lambada_openai");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "lambada_openai.jsonl"), '{"text":"the cat sat"}\n{"text":"a dog ran off"}\n');
    const mute = { source: { type: "random", config: tinyConfig, seed: 2 } as const, name: "mute" };
    await bed.until((await queue.submit("checkpoint_import", mute)).id, "succeeded");
    await assert.rejects(queue.submit("evaluation", { ...request, checkpoint: "mute" }), points("/checkpoint"));
    const job = await bed.until((await queue.submit("evaluation", request)).id, "succeeded");
    const row = await store.evaluations.get(String(job.result?.["evaluation"]));
    assert.equal(row.status, "succeeded");
    assert.deepEqual(row.request, { ...request, checkpoint: row.checkpoint });
    assert.equal(row.results[0]?.numDocs, 2);
    assert.ok("acc,none" in (row.results[0]?.metrics ?? {}));
  });

  test("a dataset keeps the tokenizer it was made with, and every blob outlives what was deleted", async () => {
    const { store, settings } = bed.services;
    const spare = await store.checkpoints.get("second");
    const digests = new Set(spare.manifest.tensors.map((tensor) => tensor.blob));
    await store.checkpoints.delete(spare.id, { cascade: true });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const swept = { ...settings, sweepGraceMs: 1 };
    const removed = await sweepOnce({ ...bed.services, settings: swept }, new AbortController().signal);
    assert.ok(removed >= digests.size);
    for (const row of (await store.checkpoints.list({ limit: 100 })).rows) {
      const { blobs } = await store.checkpoints.resolve(row);
      for (const { path } of Object.values(blobs)) assert.ok(existsSync(path), `${row.name}: ${path}`);
    }
    const { blobs } = await store.datasets.resolve(await store.datasets.get("corpus"));
    for (const { path } of Object.values(blobs)) assert.ok(existsSync(path));
    assert.deepEqual(await store.blobs.known([...digests]), new Set());
  });
});
