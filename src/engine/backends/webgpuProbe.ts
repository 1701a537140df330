/**
 * ENTRY of the process that looks for GPUs (`webgpu.ts` starts it): prints what it finds as one line of JSON and
 * ends. A process of its own, because drivers are loaded into it, and not all of them survive that.
 */
import { listAdapters } from "./webgpuDevice.ts";
import type { AdapterFacts } from "./webgpuDevice.ts";

/** What is printed. */
export type ProbeReport = { readonly adapters: readonly AdapterFacts[] } | { readonly error: string };

const report = await listAdapters().then(
  (adapters): ProbeReport => ({ adapters }),
  (error: unknown): ProbeReport => ({ error: error instanceof Error ? error.message : String(error) }),
);
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
