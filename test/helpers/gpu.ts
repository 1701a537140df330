/** Whether this machine has a WebGPU adapter, be it a software one. */
import { getBackend } from "../../src/engine/backends/index.ts";

/** @returns null when there is one, else what is missing: the reason for which a test is skipped. */
export async function missingGpu(): Promise<string | null> {
  return (await getBackend("webgpu").probe({ measure: true })).reason;
}

/** @returns null when training with precision mixed_f16 works here, else what is missing. */
export async function missingHalf(): Promise<string | null> {
  const { reason, precisions } = await getBackend("webgpu").probe({ measure: true });
  return reason ?? precisions?.["mixed_f16"] ?? null;
}
