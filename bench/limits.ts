/**
 * The limits that README promises, measured on one running server: registering a 3 GB checkpoint by reference
 * beside `openssl dgst -sha256` of the same file, growing it by G_stack, the server's peak memory through it,
 * and the latency of reads at 200 requests a second. Prints what it measured; decides nothing.
 */
import { execFileSync } from "node:child_process";
import { createWriteStream, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { expectedTensors, parseLlamaConfig } from "../src/ops/architectures/index.ts";
import { startServer } from "../scripts/lib/server.ts";

const ROUNDS = 3;
const READS_PER_SECOND = 200;
const LOAD_SECONDS = 15;

/** The shape of the paper's 7B base with 7 of its 8 layers: about 3 GB in bf16. */
const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 7,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  vocab_size: 32000,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
};

async function makeCheckpoint(directory: string): Promise<number> {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const tensor of expectedTensors(parseLlamaConfig(config))) {
    const sizeBytes = 2 * tensor.shape.reduce((product, extent) => product * extent, 1);
    header[tensor.name] = { dtype: "BF16", shape: tensor.shape, data_offsets: [offset, offset + sizeBytes] };
    offset += sizeBytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const file = createWriteStream(join(directory, "model.safetensors"));
  const chunk = Buffer.alloc(1 << 20);
  for (let index = 0; index < chunk.length; index += 1) chunk[index] = (index * 2654435761) >>> 24;
  const write = (bytes: Buffer): Promise<void> =>
    new Promise((resolve) => (file.write(bytes) ? resolve() : file.once("drain", resolve)));
  await write(length);
  await write(padded);
  for (let left = offset; left > 0; left -= chunk.length) await write(chunk.subarray(0, Math.min(left, chunk.length)));
  await new Promise((resolve) => file.end(resolve));
  return offset;
}

async function post(
  url: string,
  path: string,
  body: unknown,
): Promise<{ result: Record<string, string> | null; error: unknown; started_at: string; finished_at: string }> {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json", prefer: "wait=120" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as never;
}

async function loadReads(url: string, paths: readonly string[]): Promise<number[]> {
  const latencies: number[] = [];
  const running: Promise<void>[] = [];
  const total = READS_PER_SECOND * LOAD_SECONDS;
  const startedAt = performance.now();
  for (let index = 0; index < total; index += 1) {
    const due = startedAt + (index * 1000) / READS_PER_SECOND;
    const wait = due - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const at = performance.now();
    running.push(
      fetch(url + (paths[index % paths.length] ?? "/healthz")).then(async (answer) => {
        await answer.arrayBuffer();
        if (!answer.ok) throw new Error(`${answer.url}: ${answer.status}`);
        latencies.push(performance.now() - at);
      }),
    );
  }
  await Promise.all(running);
  return latencies.sort((a, b) => a - b);
}

const root = mkdtempSync(join(tmpdir(), "cambium-limits-"));
const directory = join(root, "model");
const sizeBytes = await makeCheckpoint(directory);
const server = await startServer({ IMPORT_ROOTS: root });
try {
  console.log(`${cpus()[0]?.model ?? "unknown CPU"}, ${cpus().length} cores, Node ${process.versions.node}`);
  console.log(`checkpoint of ${(sizeBytes / 1e9).toFixed(2)} GB\n`);
  let checkpoint = "";
  for (let round = 1; round <= ROUNDS; round += 1) {
    const t0 = performance.now();
    execFileSync("openssl", ["dgst", "-sha256", join(directory, "config.json"), join(directory, "model.safetensors")]);
    const t1 = performance.now();
    const job = await post(server.url, "/v1/checkpoints", {
      name: `round-${round}`,
      source: { type: "directory", path: directory, mode: "reference" },
    });
    const t2 = performance.now();
    checkpoint = job.result?.["checkpoint"] ?? "";
    console.log(
      `register round ${round}: openssl ${((t1 - t0) / 1000).toFixed(2)} s, register ${((t2 - t1) / 1000).toFixed(2)} s, difference ${((t2 - t1 - (t1 - t0)) / 1000).toFixed(2)} s`,
    );
  }
  for (let round = 1; round <= ROUNDS; round += 1) {
    const job = await post(server.url, "/v1/growths", {
      checkpoint,
      operator: "direct",
      axis: "depth",
      factor: 4,
      verify: false,
    });
    const milliseconds = Date.parse(job.finished_at) - Date.parse(job.started_at);
    const grown = await fetch(`${server.url}/v1/checkpoints/${job.result?.["checkpoint"]}`).then(
      (answer) => answer.json() as Promise<{ size_bytes: number; stored_bytes: number }>,
    );
    console.log(
      `G_stack x4 round ${round}: ${milliseconds} ms of job time, ${(grown.size_bytes / 1e9).toFixed(2)} GB of which ${grown.stored_bytes} bytes written`,
    );
  }
  const reads = [
    `/v1/checkpoints/${checkpoint}`,
    "/v1/checkpoints",
    "/v1/jobs",
    "/v1/operators",
    `/v1/checkpoints/${checkpoint}/files`,
  ];
  await loadReads(server.url, reads.slice(0, 1));
  for (const path of reads) {
    const latencies = await loadReads(server.url, [path]);
    const at = (share: number): string => (latencies[Math.floor(latencies.length * share)] ?? 0).toFixed(2);
    console.log(
      `GET ${path.replace(checkpoint, "{id}").padEnd(32)} at ${READS_PER_SECOND}/s for ${LOAD_SECONDS} s: median ${at(0.5)} ms, p99 ${at(0.99)} ms`,
    );
  }
  const rss = server.peakRssBytes();
  console.log(
    `\npeak resident memory of the server: ${rss === null ? "not measured here" : `${(rss / 1e6).toFixed(0)} MB`}`,
  );
} finally {
  await server.stop();
  rmSync(root, { recursive: true, force: true });
}
