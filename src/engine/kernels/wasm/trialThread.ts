/** ENTRY of the thread of `measureVariant.ts`: chooses on a memory of its own and says what it chose. */
import { parentPort, workerData } from "node:worker_threads";
import { chooseKernels } from "./chooseKernels.ts";
import type { KernelVariant } from "./variants.ts";

const pageBytes = 65_536;
const wanted = workerData as KernelVariant | null;

const memory = new WebAssembly.Memory({ initial: 2 });
const scratch = (floats: number): number => {
  const start = memory.buffer.byteLength;
  memory.grow(Math.ceil((floats * 4) / pageBytes));
  return start;
};
const [variant] = await chooseKernels({ memory, scratch }, wanted ?? undefined);
parentPort?.postMessage(variant);
