/**
 * ENTRY of a helper thread of a training (a `worker_threads` worker): starts tfjs on a heap of its own with the
 * kernels it is told to use, then answers one micro-batch after the other. It ends when it is terminated.
 */
import { parentPort, workerData } from "node:worker_threads";
import { toErrorRecord } from "../../ops/errors.ts";
import { kernelsFor } from "../kernels/index.ts";
import { createHeapTransfer } from "../kernels/wasm/transfer.ts";
import { gradientHelper } from "../train/gradientHelper.ts";
import type { FromHelper, ToHelper } from "../train/gradientProtocol.ts";
import type { ThreadData } from "./gradientThreads.ts";
import { activateTfjs } from "./tfjsRuntime.ts";

const { tfjs, kernels, variant, start } = workerData as ThreadData;

function say(message: FromHelper): void {
  parentPort?.postMessage(message);
}

async function guarded(work: () => Promise<FromHelper>): Promise<void> {
  say(await work().catch((error: unknown): FromHelper => ({ type: "failed", error: toErrorRecord(error) })));
}

let compute: ((request: ToHelper) => Promise<number>) | null = null;

parentPort?.on("message", (request: ToHelper) => {
  void guarded(async () => {
    if (!compute) throw new Error("invariant: asked before it was ready");
    return { type: "done", loss: await compute(request) };
  });
});

await guarded(async () => {
  await activateTfjs(tfjs);
  compute = gradientHelper(start, (await kernelsFor(tfjs, kernels, variant)).kernels, createHeapTransfer());
  return { type: "ready" };
});
