/**
 * Data-parallel gradients: rounds in which this thread and each helper compute one micro-batch, whose gradients are
 * then added here in the order of the micro-batches. So the bytes are those of `localGradients` for the same
 * micro-batches, whatever the number of threads and whoever finishes first. What a number of threads may change is
 * only the automatic size of a micro-batch (`memory.ts`), and with it how float32 rounds the sum.
 *
 * A round costs, beside computing, one copy of the gradient out of each helper and one addition here; an update one
 * copy of the weights to shared memory and one into each helper.
 */
import { setImmediate } from "node:timers/promises";
import type { HeapTransfer } from "../kernels/wasm/transfer.ts";
import type { GradientSource } from "./gradients.ts";
import { GradientTotal } from "./gradients.ts";
import type { ToHelper } from "./gradientProtocol.ts";
import type { MicroBatch, Model } from "./loss.ts";

/** A helper thread, seen from here. */
export interface GradientThread {
  /** Holds the gradient after each `compute`, until the next. */
  readonly gradient: Float32Array;
  /** @returns the summed loss. @throws what the helper threw, or `internal` when it is silent or gone */
  compute(request: ToHelper): Promise<number>;
  close(): Promise<void>;
}

/**
 * @param sharedWeights where the helpers read the weights from
 * @returns gradients computed by this thread and the helpers, which it owns from now on
 */
export function parallelGradients(
  model: Model,
  helpers: readonly GradientThread[],
  sharedWeights: Float32Array,
  transfer: HeapTransfer,
): GradientSource {
  const add = model.kernels.addInPlace;
  if (!add) throw new Error(`invariant: kernels ${model.kernels.name} do not add the gradients of other threads`);
  return {
    async sum(batches, signal) {
      const total = new GradientTotal();
      const stale = new Set(helpers);
      try {
        transfer.copyOut([...model.weights.values()], sharedWeights);
        for await (const [own, ...others] of rounds(batches, helpers.length + 1)) {
          await setImmediate();
          if (signal.aborted) return null;
          const answers = others.map((batch, i) => {
            const helper = helpers[i] as GradientThread;
            return { batch, helper, loss: helper.compute({ batch, refresh: stale.delete(helper) }) };
          });
          // Should computing here fail, nobody awaits these any more.
          for (const { loss } of answers) loss.catch(() => undefined);
          await total.add(model, own as MicroBatch);
          for (const { batch, helper, loss } of answers) {
            total.addComputed(await loss, batch, (grads) => transfer.addTo(grads, helper.gradient, add));
          }
        }
        return total.take();
      } finally {
        total.dispose();
      }
    },
    async close() {
      await Promise.all(helpers.map((helper) => helper.close()));
    },
  };
}

async function* rounds(batches: AsyncIterable<MicroBatch>, size: number): AsyncGenerator<MicroBatch[]> {
  let round: MicroBatch[] = [];
  for await (const batch of batches) {
    round.push(batch);
    if (round.length < size) continue;
    yield round;
    round = [];
  }
  if (round.length > 0) yield round;
}
