/**
 * The backend `cpu`: tfjs in plain JavaScript with the reference kernels. It runs anywhere and defines what is
 * right; it is hundreds of times slower than `wasm` and is never chosen where that is available.
 */
import { cpus, totalmem } from "node:os";
import type { Backend } from "./backend.ts";
import { createTfjsBackend } from "./tfjsBackend.ts";

/** Share of the machine's memory that tensors may take. */
const memoryShare = 0.5;

/** @returns the backend; nothing is started. */
export function createCpuBackend(): Backend {
  const memoryBytes = Math.floor(totalmem() * memoryShare);
  return createTfjsBackend({
    name: "cpu",
    description: "plain JavaScript, the reference that the others are measured against; slow",
    preference: 0,
    probe: () =>
      Promise.resolve({
        available: true,
        reason: null,
        device: cpus()[0]?.model ?? null,
        features: { kernels: "reference" },
        memoryBytes,
      }),
    compute: { tfjs: "cpu", kernels: "reference", variant: null, threads: 1, memoryBytes },
  });
}
