/**
 * A model process whose model is arithmetic: the id that follows is (sum of the context + seed) mod 50. It waits
 * for `temperature` ms before each token, so that tests can act in mid-generation. Special prompts misbehave.
 */
import { CodedError } from "../../../src/ops/errors.ts";
import { createModelServer } from "../../../src/engine/serving/modelServer.ts";
import type { GenerateEvent, GenerateRequest, ServedModel } from "../../../src/engine/infer/servedModel.ts";

async function* generate(request: GenerateRequest, signal: AbortSignal): AsyncGenerator<GenerateEvent> {
  const first = request.promptIds[0];
  if (first === 901) process.exit(7);
  if (first === 902) throw new CodedError("diverged", "not finite");
  if (first === 903) process.send?.({ type: "events", events: [{ id: -1, event: "nonsense" }], steps: [] });
  if (first === 904) for (;;);
  let sum = request.promptIds.reduce((total, id) => total + id, request.seed);
  for (let i = 0; i < request.maxTokens && !signal.aborted; i++) {
    await new Promise((resolve) => setTimeout(resolve, request.temperature));
    const id = sum % 50;
    sum += id + 1;
    yield { type: "token", id, logprobs: null };
  }
  yield { type: "end", reason: "length", stopToken: null };
}

const server = createModelServer({
  async load(checkpoint, backends) {
    const backend = backends?.[0];
    if (backend === "broken") throw new CodedError("checkpoint_corrupt", "the weights lie");
    if (backend === "slow") await new Promise((resolve) => setTimeout(resolve, 60_000));
    const model: ServedModel = {
      maxLength: checkpoint.manifest.config.maxPositionEmbeddings,
      vocabSize: 50,
      memoryBytes: 0,
      sharesPages: backend === "pages",
      generate,
      score: () => Promise.reject(new Error("not here")),
      close: () => undefined,
    };
    return model;
  },
  send: (message) => void process.send?.(message, undefined, undefined, () => undefined),
  rssBytes: () => process.memoryUsage.rss(),
  onUnexpected: (error) => process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`),
  exit: (code) => process.exit(code),
});

process.on("disconnect", () => server.disconnected());
process.on("message", (message) => server.receive(message));
