/**
 * Which kernels train with mixed_f16 on this GPU: those that multiply by matrices of subgroups (tensor cores), where
 * they pass a check and are measured to be faster, or the plain ones. Measured once, when a run begins: its resume
 * points name its kernels, and a run that is taken up goes on with those, whatever would be measured now.
 */
import type { KernelChoice } from "../kernels/index.ts";
import { deviceMatrices, type MatrixOps } from "../kernels/webgpu/matrixOps.ts";
import { tryMatrices, type MatrixTrial } from "../kernels/webgpu/matrixTrial.ts";
import { factsOf, matrixConfigsOf, openAdapter, type WebgpuOptions } from "./webgpuDevice.ts";

export interface MatricesDecision {
  readonly kernels: KernelChoice & ("webgpu-f16" | "webgpu-matrices-f16");
  /** For a person, measured times included. */
  readonly reason: string;
}

/** By how much they must be faster: what is as fast one day must not be the slower on another. */
const leastGain = 1.1;

const plain = (reason: string): MatricesDecision => ({ kernels: "webgpu-f16", reason });

/**
 * @param began name of the kernels with which the run began; null where it begins now
 * @throws backend_unavailable where there is no adapter
 */
export async function chooseHalfKernels(options: WebgpuOptions, began: string | null): Promise<MatricesDecision> {
  const early = decidedEarly(options, began);
  if (early) return early;
  const { adapter, open } = await openAdapter(options);
  let ops: MatrixOps;
  try {
    ops = deviceMatrices({ features: adapter.features, adapterInfo: adapter.info }, matrixConfigsOf(adapter));
  } catch (error) {
    return plain((error as Error).message);
  }
  const insists = began !== null || options.matrices === "always";
  if (!insists && factsOf(adapter).software) return plain("a software adapter has nothing to gain by them");
  const { device } = await open();
  const trial = await tryMatrices(device, ops, { measure: !insists });
  device.destroy();
  return decided(trial, ops.name);
}

/** What is known without looking at a GPU; null where it takes one. */
export function decidedEarly({ matrices }: WebgpuOptions, began: string | null): MatricesDecision | null {
  if (matrices === "never") return plain("WEBGPU_MATRICES is never");
  return began !== null && !began.includes("matrices") ? plain("the run began with them") : null;
}

/** @param unit name of what is multiplied at once */
export function decided({ problem, times }: MatrixTrial, unit: string): MatricesDecision {
  if (problem !== null) return plain(`matrices of subgroups (${unit}) are not to be trusted here: ${problem}`);
  const kernels = "webgpu-matrices-f16" as const;
  if (times === null) return { kernels, reason: `matrices of subgroups (${unit}), checked and not measured` };
  const { size, matricesMs, plainMs } = times;
  const ours = `${matricesMs.toFixed(2)} ms by matrices of subgroups (${unit})`;
  const measured = `three products of ${size} squared took ${ours}, ${plainMs.toFixed(2)} ms without`;
  return matricesMs * leastGain < plainMs ? { kernels, reason: measured } : plain(measured);
}
