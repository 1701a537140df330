/**
 * Where the gradient of a batch comes from: this thread alone (`localGradients`), or several
 * (`parallelGradients.ts`). Both add micro-batches in their order, one after the other, so that neither timing nor
 * the number of threads has a part in the sum: the same micro-batches give the same bytes.
 */
import { setImmediate } from "node:timers/promises";
import * as tf from "@tensorflow/tfjs";
import type { MicroBatch, Model } from "./loss.ts";
import { countTargets, lossAndGradients } from "./loss.ts";

/** Sums over the micro-batches of one update; the caller disposes of the gradients. */
export interface GradientSum {
  /** Of the losses of all tokens that counted, natural log. */
  readonly loss: number;
  /** One for each weight, in the order of the weights' map. */
  readonly grads: readonly tf.Tensor[];
  /** Tokens that counted. */
  readonly tokens: number;
}

export interface GradientSource {
  /** @returns null when `signal` was aborted before all was computed */
  sum(batches: AsyncIterable<MicroBatch>, signal: AbortSignal): Promise<GradientSum | null>;
  /** Gives back what it holds beside the model. */
  close(): Promise<void>;
}

/** @returns gradients computed by this thread. */
export function localGradients(model: Model): GradientSource {
  return {
    async sum(batches, signal) {
      const total = new GradientTotal();
      try {
        for await (const batch of batches) {
          // A turn of the event loop: an abort arrives as a message, and computing leaves no room for one.
          await setImmediate();
          if (signal.aborted) return null;
          await total.add(model, batch);
        }
        return total.take();
      } finally {
        total.dispose();
      }
    },
    close: () => Promise.resolve(),
  };
}

/** The sum under way. */
export class GradientTotal {
  #grads: tf.Tensor[] = [];
  #loss = 0;
  #tokens = 0;

  /** Adds a micro-batch, computed here. */
  async add(model: Model, batch: MicroBatch): Promise<void> {
    const part = lossAndGradients(model, batch);
    this.#grads = addGradients(this.#grads, part.grads);
    this.#count(((await part.loss.data()) as Float32Array)[0] as number, batch);
    part.loss.dispose();
  }

  /** Adds a micro-batch computed elsewhere; `addTo` adds its gradients to the tensors, in place. */
  addComputed(loss: number, batch: MicroBatch, addTo: (grads: readonly tf.Tensor[]) => void): void {
    addTo(this.#grads);
    this.#count(loss, batch);
  }

  /** @returns the sum, which is no longer this object's. */
  take(): GradientSum {
    const grads = this.#grads;
    this.#grads = [];
    return { loss: this.#loss, grads, tokens: this.#tokens };
  }

  dispose(): void {
    tf.dispose(this.#grads);
    this.#grads = [];
  }

  #count(loss: number, { targets }: MicroBatch): void {
    this.#loss += loss;
    this.#tokens += countTargets(targets);
  }
}

/** @returns sums of the two lists, which are disposed of; the second where the first is empty. */
export function addGradients(sums: tf.Tensor[], grads: tf.Tensor[]): tf.Tensor[] {
  if (sums.length === 0) return grads;
  return sums.map((sum, i) => {
    const grad = grads[i] as tf.Tensor;
    const next = tf.add(sum, grad);
    tf.dispose([sum, grad]);
    return next;
  });
}
