/**
 * ENTRY of a growing thread: plans the growth it was started with, then builds the tensors it is told to, one after the
 * other, and says what it wrote. It is ended by terminating the thread.
 */
import { parentPort, workerData } from "node:worker_threads";
import { CodedError, invariant, toErrorRecord } from "../../ops/errors.ts";
import { planGrowth } from "../../ops/growth/index.ts";
import { buildTensor } from "./buildTensor.ts";
import type { GrowAnswer, GrowThreadData, OrderedFile } from "./growThreads.ts";
import { createRowKernel } from "./rowKernel.ts";
import { tensorOrders, tensorSets } from "./work.ts";

/** Bytes between two messages of progress. */
const reportBytes = 16 << 20;

const { work, kernel: module } = workerData as GrowThreadData;
const plan = planGrowth(work.source.manifest, work.request);
const orders = tensorOrders(tensorSets(plan, work.source, work.growOptimizer === true), work.source);
const kernel = createRowKernel(module);

function answer(message: GrowAnswer): void {
  parentPort?.postMessage(message);
}

async function run({ index, path }: OrderedFile): Promise<void> {
  const order = orders[index];
  invariant(order, `the plan has an order ${index}`);
  let unsaid = 0;
  const onBytes = (bytes: number): void => {
    unsaid += bytes;
    if (unsaid < reportBytes) return;
    answer({ type: "bytes", bytes: unsaid });
    unsaid = 0;
  };
  const built = await buildTensor(order, path, { kernel, onBytes });
  answer({ type: "bytes", bytes: unsaid });
  answer({ type: "built", built });
}

parentPort?.on("message", (file: OrderedFile) => {
  run(file).catch((error: unknown) => {
    const record = error instanceof CodedError ? toErrorRecord(error) : null;
    answer({ type: "failed", error: record, trace: error instanceof Error ? (error.stack ?? "") : String(error) });
  });
});
