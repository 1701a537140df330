/**
 * ENTRY of a compute process for tests, with the real protocol: what it does is named by the request's
 * `backend`. It holds no model; it crashes, hangs, floods or behaves as it is told.
 */
import type { FromChild, ToChild } from "../../../src/engine/jobs/computeProtocol.ts";

const send = (message: FromChild): Promise<void> =>
  new Promise((resolve) => process.send?.(message, undefined, undefined, () => resolve()));
const log = (message: string): Promise<void> => send({ type: "event", event: { type: "log", level: "info", message } });

const behaviours: Record<string, () => Promise<void>> = {
  async result() {
    await log("one");
    await send({
      type: "event",
      event: { type: "result", result: { pid: process.pid, env: { ...process.env } }, blobs: [] },
    });
    await send({ type: "done" });
    process.exit(0);
  },
  async exit() {
    await log("one");
    process.stderr.write("something broke\n");
    process.exit(3);
  },
  async killed() {
    await log("one");
    process.kill(process.pid, "SIGKILL");
  },
  async hang() {
    await log(String(process.pid));
    for (;;);
  },
  async memory() {
    await log("one");
    const held: Buffer[] = [];
    setInterval(() => held.push(Buffer.alloc(32 << 20, 1)), 20);
  },
  async failed() {
    await send({ type: "failed", error: { code: "diverged", message: "loss is NaN at step 3" }, trace: "" });
    process.exit(0);
  },
  async stops() {
    await log("waiting");
  },
  async wait() {
    await log(String(process.pid));
  },
};

process.on("disconnect", () => process.exit(1));
process.on("message", (message: ToChild) => {
  if (message.type === "start") void behaviours["backend" in message.request ? message.request.backend : ""]?.();
  if (message.type === "stop") {
    void send({ type: "event", event: { type: "stopped" } })
      .then(() => send({ type: "done" }))
      .then(() => process.exit(0));
  }
});
