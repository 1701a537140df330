/**
 * How fast a checkpoint grows, beside `cp` and `cat` of the same bytes in the same run: G_stack of the paper's 7B base,
 * which writes nothing; width growth of models of several sizes, which writes all of it, beside SHA-256 alone of the
 * bytes it writes; and the export of the stacked model as a stream. All in bf16, with seeded made-up numbers in a temporary folder that is removed afterwards (15 GB at full
 * size). Each growth runs in a process of its own, whose peak memory is told. Prints what it measured; decides nothing.
 *
 * node bench/growth.ts [--short] [--rounds N] [--split elementwise|even|scalar|tile] [--widths 410m-base,410m,1.1b]
 *   [--widths-only]
 * `--short` takes two layers of each model (1 GB), for a look on a busy machine; "1.1b" writes 10.5 GB.
 */
import { execFileSync, fork } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { checkpointDigest } from "../src/engine/checkpoint/digest.ts";
import { hashRanges } from "../src/engine/checkpoint/hashing.ts";
import { openViewFile, listViewFiles } from "../src/engine/checkpoint/view.ts";
import { growTensors } from "../src/engine/growth/growTensors.ts";
import { grownManifest } from "../src/engine/jobs/growthPlan.ts";
import { expectedTensors } from "../src/ops/architectures/llama.ts";
import { formatLlamaConfig } from "../src/ops/architectures/llamaConfig.ts";
import { encodeFromF32, tensorBytes } from "../src/ops/dtype.ts";
import { planGrowth, type GrowthPlanRequest } from "../src/ops/growth/index.ts";
import type { ResolvedCheckpoint } from "../src/ops/manifest.ts";
import { findPreset } from "../src/ops/planner/presets.ts";
import { seededStream } from "../src/ops/rng.ts";

interface Work {
  readonly what: "stack" | "width" | "export";
  readonly source: ResolvedCheckpoint;
  readonly request: GrowthPlanRequest;
  readonly blobDir: string;
}

interface Measured {
  readonly seconds: number;
  /** Bytes written, or streamed. */
  readonly bytes: number;
  readonly peakRssMb: number;
  readonly blobs: readonly string[];
  readonly largestTensorMb: number;
}

/** One file of all tensors, without a header: numbers of N(0, 0.02), repeated every 16 Mi. */
async function makeCheckpoint(folder: string, preset: string, layers: number | null): Promise<ResolvedCheckpoint> {
  const found = findPreset(preset)!;
  const config = layers === null ? found : { ...found, numHiddenLayers: layers };
  const infos = expectedTensors(config, "BF16");
  const chunk = encodeFromF32(seededStream(1, preset).fillNormal(new Float32Array(1 << 24), 0.02), "BF16");
  const blob = createHash("sha256").update(preset).digest("hex");
  const path = join(folder, `${preset}.bin`);
  const file = await open(path, "w");
  let offset = 0;
  const tensors = infos.map((info) => {
    const sizeBytes = tensorBytes(info);
    const ref = { ...info, blob, offset, sizeBytes, sha256: createHash("sha256").update(info.name).digest("hex") };
    offset += sizeBytes;
    return ref;
  });
  for (let done = 0; done < offset; done += chunk.length) await file.write(chunk.subarray(0, offset - done));
  await file.sync();
  await file.close();
  return {
    id: preset,
    manifest: {
      ...{ architecture: "llama", config, configJson: formatLlamaConfig(config, {}), tensors, files: [] },
      ...{ original: null, optimizer: null },
    },
    blobs: { [blob]: { path, sizeBytes: offset, mtimeMs: null } },
  };
}

async function measure({ what, source, request, blobDir }: Work): Promise<Measured> {
  const start = performance.now();
  const plan = planGrowth(source.manifest, request);
  const built =
    what === "width" ? await growTensors({ source, request, blobDir }, { threads: availableParallelism() }) : null;
  const manifest = grownManifest(source.manifest, plan, built?.tensors ?? [], null);
  checkpointDigest(manifest);
  let seconds = (performance.now() - start) / 1000;
  let bytes = (built?.blobs ?? []).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (what === "export") {
    const again = performance.now();
    const resolved = { id: "grown", manifest, blobs: source.blobs };
    for (const { name } of listViewFiles(manifest)) {
      for await (const part of await openViewFile(resolved, name)) bytes += part.length;
    }
    seconds = (performance.now() - again) / 1000;
  }
  const largest = Math.max(...plan.tensors.map(({ info }) => tensorBytes(info)));
  const peakRssMb = process.resourceUsage().maxRSS / 1024;
  return {
    seconds,
    bytes,
    peakRssMb,
    blobs: (built?.blobs ?? []).map(({ digest }) => digest),
    largestTensorMb: largest / 2 ** 20,
  };
}

function inChild(work: Work): Promise<Measured> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ["--child"]);
    child.once("message", (message) => {
      resolve(message as Measured);
      child.kill();
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the growth's process exited with ${code}`)));
    child.send(work);
  });
}

function seconds(run: () => unknown): number {
  const start = performance.now();
  run();
  return (performance.now() - start) / 1000;
}

async function secondsOf(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const best = (values: readonly number[]): number => Math.min(...values);
const rate = (bytes: number, time: number): string => `${(bytes / time / 1e9).toFixed(2)} GB/s`;

async function benchStack(folder: string, layers: number | null, rounds: number): Promise<void> {
  const source = await makeCheckpoint(folder, "7b-base", layers);
  const request: GrowthPlanRequest = { operator: "direct", axis: "depth", factor: 4 };
  const { path } = Object.values(source.blobs)[0]!;
  const runs: Measured[] = [];
  for (let round = 0; round < rounds; round += 1)
    runs.push(await inChild({ what: "stack", source, request, blobDir: folder }));
  const copied = best(Array.from({ length: rounds }, () => seconds(() => execFileSync("cp", [path, `${path}.copy`]))));
  rmSync(`${path}.copy`);
  const size = statSync(path).size;
  console.log(
    `stack 7b-base x4: ${best(runs.map((r) => r.seconds)).toFixed(4)} s, ${runs[0]!.bytes} bytes written, peak RSS ${Math.max(...runs.map((r) => r.peakRssMb)).toFixed(0)} MB; cp of its base: ${copied.toFixed(2)} s (${rate(size, copied)})`,
  );
  await benchExport({ what: "export", source, request, blobDir: folder }, path, rounds);
  rmSync(path);
}

async function benchExport(work: Work, path: string, rounds: number): Promise<void> {
  const size = statSync(path).size;
  const views: Measured[] = [];
  const cats: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    views.push(await inChild(work));
    const list = Array(Math.round(views[0]!.bytes / size))
      .fill(path)
      .join(" ");
    cats.push(seconds(() => execFileSync("sh", ["-c", `cat ${list} | cat > /dev/null`])));
  }
  const { bytes, peakRssMb } = views[0]!;
  const [view, cat] = [best(views.map((run) => run.seconds)), best(cats)];
  console.log(
    `export view: ${rate(bytes, view)}, cat into a pipe ${rate(bytes, cat)}: ${(cat / view).toFixed(2)} of it, peak RSS ${peakRssMb.toFixed(0)} MB`,
  );
}

/** Grows once more than it measures: the first writer of a virtual machine's memory waits for the host to give it. */
async function benchWidth(folder: string, preset: string, layers: number | null, rounds: number, split: string) {
  const source = await makeCheckpoint(folder, preset, layers);
  const request: GrowthPlanRequest = { operator: "direct", axis: "width", factor: 2, params: { split } };
  const written = join(folder, "written.bin");
  const grow = async (): Promise<{ made: Measured; paths: string[] }> => {
    const made = await inChild({ what: "width", source, request, blobDir: folder });
    return { made, paths: made.blobs.map((digest) => join(folder, digest.slice(0, 2), digest)) };
  };
  const { paths } = await grow();
  const ranges = paths.map((path) => ({ path, offset: 0, sizeBytes: statSync(path).size }));
  const hashed = await secondsOf(() => hashRanges(ranges));
  execFileSync("sh", ["-c", `cat ${paths.join(" ")} > ${written} && rm ${paths.join(" ")} && sync ${written}`]);
  const rows: Record<"made" | "copied" | "durable", number>[] = [];
  let last: Measured | null = null;
  for (let round = 0; round < rounds; round += 1) {
    const { made, paths } = await grow();
    for (const each of paths) rmSync(each);
    const copied = seconds(() => execFileSync("cp", [written, `${written}.copy`]));
    const durable = copied + seconds(() => execFileSync("sync", [`${written}.copy`]));
    rmSync(`${written}.copy`);
    rows.push({ made: made.seconds, copied, durable });
    last = made;
  }
  for (const path of [written, ...Object.values(source.blobs).map((blob) => blob.path)]) rmSync(path);
  const of = (key: "made" | "copied" | "durable"): number => median(rows.map((row) => row[key]));
  const [made, copied, durable] = [of("made"), of("copied"), of("durable")];
  console.log(
    `width ${preset} x2 ${split}, ${(last!.bytes / 1e9).toFixed(2)} GB: ${made.toFixed(2)} s (${rate(last!.bytes, made)}, ${((made / last!.bytes) * 1e9).toFixed(2)} ns a byte), peak RSS ${last!.peakRssMb.toFixed(0)} MB with a largest tensor of ${last!.largestTensorMb.toFixed(0)} MB; cp ${copied.toFixed(2)} s, cp and sync ${durable.toFixed(2)} s: ${(copied / made).toFixed(2)} of cp, ${(durable / made).toFixed(2)} of cp and sync; SHA-256 alone of those bytes on all cores ${hashed.toFixed(2)} s: ${(copied / hashed).toFixed(2)} of cp`,
  );
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      short: { type: "boolean" },
      rounds: { type: "string", default: "3" },
      split: { type: "string", default: "elementwise" },
      "widths-only": { type: "boolean" },
      widths: { type: "string", default: "410m-base,410m,1.1b" },
    },
  });
  const layers = values.short ? 2 : null;
  const folder = mkdtempSync(join(tmpdir(), "cambium-bench-"));
  console.log(`node ${process.version}, ${availableParallelism()} cores`);
  try {
    if (!values["widths-only"]) await benchStack(folder, layers, Number(values.rounds));
    for (const preset of values.widths.split(",")) {
      await benchWidth(folder, preset, layers, Number(values.rounds), values.split);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv.includes("--child")) {
  process.once("message", (work: Work) => {
    void measure(work).then((measured) => process.send?.(measured));
  });
} else await main();
