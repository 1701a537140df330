/**
 * The parts of the Open Inference Protocol (V2, REST) by which platforms watch a server: liveness, readiness, and what
 * a model takes and gives. Texts are completed under /v1; tensors are not taken.
 */
import { CodedError } from "../../ops/errors.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";

type ProtocolOperations =
  "getProtocolServer" | "getProtocolLive" | "getProtocolReady" | "getProtocolModel" | "getProtocolModelReady";

/** Time that the database has to answer a readiness check, ms. */
const pingTimeoutMs = 2_000;

export function createProtocolHandlers(deps: RouteDeps): HandlersOf<ProtocolOperations> {
  const { store, contract, closing } = deps;
  return {
    getProtocolServer: () => ({ status: 200, body: { name: "cambium", version: contract.version, extensions: [] } }),
    getProtocolLive: () => ({ status: 200, body: { live: true } }),
    async getProtocolReady() {
      if (closing.aborted) throw new CodedError("unavailable", "the server is stopping");
      await store.ping(pingTimeoutMs);
      return { status: 200, body: { ready: true } };
    },
    async getProtocolModel({ path }) {
      const { id, name, manifest } = await store.checkpoints.get(path.model);
      const { vocabSize } = manifest.config;
      return {
        status: 200,
        body: {
          name: name ?? id,
          versions: [id],
          platform: `cambium_${manifest.architecture}`,
          inputs: [{ name: "input_ids", datatype: "INT64", shape: [-1, -1] }],
          outputs: [{ name: "logits", datatype: "FP32", shape: [-1, -1, vocabSize] }],
        },
      };
    },
    async getProtocolModelReady({ path }) {
      const { id, name } = await store.checkpoints.get(path.model);
      // It is loaded by the first request that asks for it: whatever is registered can be asked.
      return { status: 200, body: { name: name ?? id, ready: true } };
    },
  };
}
