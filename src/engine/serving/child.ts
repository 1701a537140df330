/**
 * ENTRY of a model process: started by the pool with an IPC channel, an empty environment and nothing else.
 * It wires the channel to `modelServer.ts` and the backends; all it knows comes by message.
 */
import { chooseBackend } from "../backends/index.ts";
import { readComputeOptions } from "../settings.ts";
import { createModelServer } from "./modelServer.ts";

const server = createModelServer({
  async load(checkpoint, allowed, caches) {
    const backend = await chooseBackend("auto", allowed, readComputeOptions());
    return backend.load(checkpoint, caches);
  },
  // A channel that closed while a message was on its way is noticed by `disconnect`.
  send: (message) => void process.send?.(message, undefined, undefined, () => undefined),
  rssBytes: () => process.memoryUsage.rss(),
  onUnexpected: (error) => process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`),
  exit: (code) => process.exit(code),
});

// Ctrl-C reaches the whole process group; the server decides when its model processes end.
process.on("SIGINT", () => undefined);
process.on("disconnect", () => server.disconnected());
process.on("message", (message) => server.receive(message));
