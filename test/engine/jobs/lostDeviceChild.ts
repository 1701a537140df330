/**
 * ENTRY for deviceLoss.test.ts: a compute process like any other, but that its GPU device is lost as soon as it has
 * told of a resume point.
 */
import { startWebgpu } from "../../../src/engine/backends/webgpuRuntime.ts";

const send = process.send?.bind(process) as (...args: unknown[]) => boolean;
let isLost = false;
process.send = (...args: unknown[]): boolean => {
  const message = args[0] as { type: string; event?: { type: string } };
  const sent = send(...args);
  if (message.event?.type === "saved" && !isLost) {
    isLost = true;
    // The device of this process: it is opened once.
    void startWebgpu().then(({ device }) => device.destroy());
  }
  return sent;
};
await import("../../../src/engine/jobs/child.ts");
