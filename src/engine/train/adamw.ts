/**
 * The state of AdamW (Loshchilov & Hutter 2019) for a whole model: two moments for each weight, and how many
 * updates they have seen. The arithmetic is the kernel's; here is which tensors decay, and in which order
 * they go, which is that of the weights' map and so the same in every run.
 */
import * as tf from "@tensorflow/tfjs";
import type { OptimizerSettings } from "../backends/work.ts";
import type { DeferredUpdates, UpdateTerms } from "../kernels/deferred.ts";
import type { Kernels } from "../kernels/kernels.ts";

/** One weight with its moments. */
interface Slot {
  readonly weight: tf.Variable;
  readonly first: tf.Variable;
  readonly second: tf.Variable;
  readonly weightDecay: number;
}

/** Values that moments start from; absent names start from zero. */
export interface MomentValues {
  readonly step: number;
  readonly first: ReadonlyMap<string, tf.Tensor>;
  readonly second: ReadonlyMap<string, tf.Tensor>;
}

/** What an update that the device decides on needs beside gradients. */
export interface DeferredUpdate extends Pick<UpdateTerms, "tokens" | "clip"> {
  readonly learningRate: number;
  /** State of the loss scale (`kernels/deferred.ts`), changed in place. */
  readonly lossScale: tf.Variable;
}

export class AdamW {
  readonly #kernels: Kernels;
  readonly #settings: OptimizerSettings;
  readonly #slots: ReadonlyMap<string, Slot>;
  #step: number;
  /** Deferred updates that were counted and then found not to have been made. */
  #skipped = 0;

  /** @param from moments to go on from, copied; null for a fresh start */
  constructor(
    kernels: Kernels,
    settings: OptimizerSettings,
    weights: ReadonlyMap<string, tf.Variable>,
    from: MomentValues | null,
  ) {
    this.#kernels = kernels;
    this.#settings = settings;
    this.#step = from?.step ?? 0;
    this.#slots = new Map(
      [...weights].map(([name, weight]) => [
        name,
        {
          weight,
          first: moment(weight, from?.first.get(name)),
          second: moment(weight, from?.second.get(name)),
          weightDecay: decays(settings, weight) ? settings.weightDecay : 0,
        },
      ]),
    );
  }

  /** Updates made with these moments, those before this run included. */
  get step(): number {
    return this.#step;
  }

  /** First moments under the names of their weights. */
  get first(): ReadonlyMap<string, tf.Tensor> {
    return new Map([...this.#slots].map(([name, slot]) => [name, slot.first]));
  }

  /** Second moments under the names of their weights. */
  get second(): ReadonlyMap<string, tf.Tensor> {
    return new Map([...this.#slots].map(([name, slot]) => [name, slot.second]));
  }

  /**
   * One update of all weights, in place.
   * @param grads one for each weight, in the order of the weights' map
   * @param gradScale multiplies them first
   */
  update(grads: readonly tf.Tensor[], learningRate: number, gradScale: number): void {
    this.#step++;
    const { betas, eps } = this.#settings;
    for (const [{ weight, first, second, weightDecay }, grad] of this.#with(grads)) {
      this.#kernels.adamw(weight, grad, first, second, {
        learningRate,
        beta1: betas[0],
        beta2: betas[1],
        eps,
        weightDecay,
        gradScale,
        step: this.#step,
      });
    }
  }

  /**
   * One update of all weights that the device decides on.
   * @param grads of the sum over the batch, one for each weight, in the order of the weights' map
   * @returns the decision, for the caller to read and to dispose of; `countSkipped` wants to hear of one against it
   */
  defer(deferred: DeferredUpdates, loss: tf.Scalar, grads: readonly tf.Tensor[], update: DeferredUpdate): tf.Tensor1D {
    this.#step++;
    const { betas, eps } = this.#settings;
    const { learningRate, clip, tokens, lossScale } = update;
    const [beta1, beta2] = betas;
    const step = this.#step + this.#skipped;
    const decision = deferred.decide(loss, grads, { tokens, clip, step, beta1, beta2 }, lossScale);
    for (const [{ weight, first, second, weightDecay }, grad] of this.#with(grads)) {
      deferred.adamw(weight, grad, first, second, { learningRate, beta1, beta2, eps, weightDecay }, decision);
    }
    return decision;
  }

  /** One of the deferred updates turned out not to have been made. */
  countSkipped(): void {
    this.#step--;
    this.#skipped++;
  }

  *#with(grads: readonly tf.Tensor[]): Generator<[Slot, tf.Tensor]> {
    let index = 0;
    for (const slot of this.#slots.values()) {
      const grad = grads[index++];
      if (!grad) throw new Error(`invariant: ${grads.length} gradients for ${this.#slots.size} weights`);
      yield [slot, grad];
    }
  }

  dispose(): void {
    for (const { first, second } of this.#slots.values()) tf.dispose([first, second]);
  }
}

function decays(settings: OptimizerSettings, weight: tf.Tensor): boolean {
  return settings.decay === "all" || weight.rank >= 2;
}

function moment(weight: tf.Tensor, from: tf.Tensor | undefined): tf.Variable {
  return tf.tidy(() => tf.variable(from ? tf.add(from, 0) : tf.zerosLike(weight), false));
}
