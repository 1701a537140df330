/**
 * ENTRY of the process that looks for GPUs (`webgpu.ts` starts it, with its options as JSON): prints what it finds as
 * one line of JSON, and ends. Where it is to measure, a second line says how the GPU that the options choose multiplies
 * halves.
 * A process of its own, because drivers are loaded into it, and not all of them survive that.
 */
import { listAdapters } from "./webgpuDevice.ts";
import type { AdapterFacts, WebgpuOptions } from "./webgpuDevice.ts";
import { chooseHalfKernels } from "./webgpuMatrices.ts";

/** What is printed. */
export type ProbeReport = { readonly adapters: readonly AdapterFacts[] } | { readonly error: string };

const report = await listAdapters().then(
  (adapters): ProbeReport => ({ adapters }),
  (error: unknown): ProbeReport => ({ error: error instanceof Error ? error.message : String(error) }),
);
const print = (line: unknown): Promise<void> =>
  new Promise((done) => process.stdout.write(`${JSON.stringify(line)}\n`, () => done()));
await print(report);
const { measure, ...options } = JSON.parse(process.argv[2] ?? "{}") as WebgpuOptions & { measure?: boolean };
if ("adapters" in report && measure) {
  await print(await chooseHalfKernels(options, null).catch(() => null));
}
process.exit(0);
