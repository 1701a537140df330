/**
 * A checkpoint as a served model on the active tfjs backend: the weights, a decoder over the one Llama of
 * `model/llama.ts`, and generation and scoring on top. The backend calls it after choosing kernels; the process
 * that holds the model closes it.
 */
import * as tf from "@tensorflow/tfjs";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { KvCache } from "../model/kvCache.ts";
import { hiddenStates, logits } from "../model/llama.ts";
import type { Weights } from "../model/llama.ts";
import { disposeWeights, loadWeights } from "../model/weights.ts";
import type { Decoder, Sequence } from "./decoder.ts";
import { generate } from "./generate.ts";
import { score } from "./score.ts";
import type { ServedModel } from "./servedModel.ts";
import { createTurns, takingTurns } from "./turns.ts";

/**
 * Loads the weights as float32 tensors of the active backend.
 * @throws checkpoint_missing_file, checkpoint_corrupt, source_changed
 */
export async function loadServedModel(checkpoint: ResolvedCheckpoint, kernels: Kernels): Promise<ServedModel> {
  const { config } = checkpoint.manifest;
  const weights = await loadWeights(checkpoint);
  const decoder = takingTurns(llamaDecoder(config, weights, kernels), createTurns());
  let open = true;
  return {
    maxLength: decoder.maxLength,
    vocabSize: decoder.vocabSize,
    memoryBytes: [...weights.values()].reduce((sum, tensor) => sum + 4 * tensor.size, 0),
    generate: (request, signal) => generate(decoder, request, signal),
    score: (requests, signal) => score(decoder, requests, signal),
    close() {
      if (open) disposeWeights(weights);
      open = false;
    },
  };
}

/** @returns a decoder of one sequence a step; it owns no weights. */
export function llamaDecoder(config: LlamaConfig, weights: Weights, kernels: Kernels): Decoder {
  return {
    maxLength: config.maxPositionEmbeddings,
    vocabSize: config.vocabSize,
    start: () => llamaSequence(config, weights, kernels),
  };
}

function llamaSequence(config: LlamaConfig, weights: Weights, kernels: Kernels): Sequence {
  const cache = new KvCache(config.numHiddenLayers);
  return {
    get length() {
      return cache.length;
    },
    async append(ids, rows) {
      const stream = (): tf.Tensor2D =>
        hiddenStates(kernels, config, weights, Int32Array.from(ids), 1, ids.length, [cache]);
      if (rows === 0) {
        stream().dispose();
        return new Float32Array(0);
      }
      const result = tf.tidy(() => {
        const x_TD = stream();
        // Only the rows asked for meet the head: it is the widest product of the model.
        const last_RD = rows === ids.length ? x_TD : tf.slice(x_TD, [ids.length - rows, 0], [rows, config.hiddenSize]);
        return logits(kernels, config, weights, last_RD);
      });
      const values = (await result.data()) as Float32Array;
      result.dispose();
      return values;
    },
    truncate: (length) => cache.truncate(length),
    close: () => cache.dispose(),
  };
}
