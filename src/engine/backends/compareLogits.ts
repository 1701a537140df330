/**
 * How far two checkpoints are from computing the same function: both read the same seeded ids, and their
 * logits are compared, in float32 arithmetic, one sequence at a time. The receipt of a growth holds it.
 */
import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import { seededStream } from "../../ops/rng.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { hiddenStates, logits } from "../model/llama.ts";
import { disposeWeights, loadWeights } from "../model/weights.ts";
import type { CompareResult, CompareWork } from "./work.ts";

/**
 * @returns null when aborted
 * @throws unprocessable when the vocabularies differ or a context is too short; checkpoint_corrupt,
 *   source_changed
 */
export async function compareLogits(
  work: CompareWork,
  kernels: Kernels,
  signal: AbortSignal,
): Promise<CompareResult | null> {
  const { source, target, sequences, positions } = work;
  const vocabSize = checkComparable(work);
  const stream = seededStream(work.seed, "probe");
  const probes = Array.from({ length: sequences }, () =>
    Int32Array.from({ length: positions }, () => stream.below(vocabSize)),
  );
  // One model after the other: the second may be all that memory holds.
  const before = await probeLogits(source, kernels, probes, signal);
  const after = before && (await probeLogits(target, kernels, probes, signal));
  if (!before || !after) return null;
  let max = 0;
  let squares = 0;
  let count = 0;
  for (const [i, values] of before.entries()) {
    const others = after[i] as Float32Array;
    for (let j = 0; j < values.length; j++) {
      const change = Math.abs((others[j] as number) - (values[j] as number));
      if (!Number.isFinite(change)) {
        throw new CodedError("verification_failed", `a logit is not finite: ${values[j]} before, ${others[j]} after`);
      }
      max = Math.max(max, change);
      squares += change * change;
      count++;
    }
  }
  const rmsLogitChange = Math.sqrt(squares / count);
  return { maxAbsLogitChange: max, rmsLogitChange, dtype: "float32", probeTokens: sequences * positions };
}

function checkComparable({ source, target, sequences, positions }: CompareWork): number {
  const [a, b] = [source.manifest.config, target.manifest.config];
  if (a.vocabSize !== b.vocabSize) {
    throw new CodedError("unprocessable", `vocab_size is ${a.vocabSize} and ${b.vocabSize}: logits cannot be compared`);
  }
  const context = Math.min(a.maxPositionEmbeddings, b.maxPositionEmbeddings);
  if (sequences < 1 || positions < 1 || positions > context) {
    const wanted = `at least 1 x 1 and at most ${context} positions are wanted`;
    throw new CodedError("unprocessable", `a probe of ${sequences} x ${positions}: ${wanted}`);
  }
  return a.vocabSize;
}

/** Logits of each probe, read back to JavaScript. */
async function probeLogits(
  checkpoint: ResolvedCheckpoint,
  kernels: Kernels,
  probes: readonly Int32Array[],
  signal: AbortSignal,
): Promise<Float32Array[] | null> {
  const { config } = checkpoint.manifest;
  const weights = await loadWeights(checkpoint);
  try {
    const results: Float32Array[] = [];
    for (const ids of probes) {
      await setImmediate();
      if (signal.aborted) return null;
      const result = tf.tidy(() =>
        logits(kernels, config, weights, hiddenStates(kernels, config, weights, ids, 1, ids.length)),
      );
      // A copy: what the cpu backend hands out may be the tensor's own memory.
      results.push(Float32Array.from(await result.data()));
      result.dispose();
    }
    return results;
  } finally {
    disposeWeights(weights);
  }
}
