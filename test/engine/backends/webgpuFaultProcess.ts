/**
 * ENTRY for webgpu.test.ts: trains on the GPU and, after the second update, does what its argument says to the device.
 * Prints, as JSON, the events that came and the error that ended them; then ends by itself.
 */
import { getBackend } from "../../../src/engine/backends/index.ts";
import { startWebgpu } from "../../../src/engine/backends/webgpuRuntime.ts";
import type { CodedError } from "../../../src/ops/errors.ts";
import { temporaryFolder, tinyCheckpoint, tinyDataset, tinyWork } from "../train/trainerFixture.ts";

const [, , fault] = process.argv;
const folder = temporaryFolder();
const work = tinyWork(await tinyCheckpoint(folder), tinyDataset(folder), folder);
const { device } = await startWebgpu();
const seen: string[] = [];
let error: { code: string; message: string } | null = null;
try {
  for await (const event of getBackend("webgpu").train(work, new AbortController().signal)) {
    seen.push(event.type === "metrics" ? `metrics ${event.point.step}` : event.type);
    if (event.type !== "metrics" || event.point.step !== 2) continue;
    if (fault === "lost") device.destroy();
    // A usage that WebGPU does not allow: the call returns a buffer, and the error comes as an event.
    if (fault === "error") device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
  }
} catch (thrown) {
  const { code, message } = thrown as CodedError;
  error = { code, message };
}
console.log(JSON.stringify({ seen, error }));
