/**
 * Making updates, and learning what became of them: at once, where a number is there as soon as it is computed, or
 * later (`deferredUpdates.ts`), where asking for it would hold computing up. The trainer knows only this.
 */
import type { GradientSource } from "./gradients.ts";
import type { MicroBatch, Model } from "./loss.ts";
import type { Run } from "./run.ts";
import type { StepSettings } from "./step.ts";
import { trainStep } from "./step.ts";

/** What became of an update. */
export interface UpdateOutcome {
  /** As in its settings. */
  readonly step: number;
  readonly learningRate: number;
  /** Mean over the tokens of the batch, natural log. */
  readonly loss: number;
  /** Global norm of the mean gradient, before clipping. */
  readonly gradNorm: number;
  /** The loss scale at which the gradient overflowed, so that nothing was changed; null for an update that was made. */
  readonly overflowedAt: number | null;
}

export interface Updates {
  /**
   * Makes one update, or has the device make it.
   * @returns false when `signal` was aborted before; then nothing has changed
   * @throws diverged, where it is known at once
   */
  make(batches: AsyncIterable<MicroBatch>, settings: StepSettings, signal: AbortSignal): Promise<boolean>;
  /**
   * @param all waits for what became of every update; else gives what there is without waiting
   * @returns outcomes in the order of the updates, each once; one whose loss or norm is not finite and that has not
   *   overflowed has diverged: nothing after it counts
   */
  take(all: boolean): Promise<readonly UpdateOutcome[]>;
  close(): Promise<void>;
}

/** @returns updates whose outcome is known when they have been made. */
export function immediateUpdates(run: Model & Pick<Run, "optimizer">, gradients: GradientSource): Updates {
  let made: UpdateOutcome[] = [];
  return {
    async make(batches, settings, signal) {
      const outcome = await trainStep(run, run.optimizer, batches, settings, signal, gradients);
      if (!outcome) return false;
      const { loss, gradNorm } = outcome;
      const { step, learningRate } = settings;
      made.push({ step, learningRate, loss, gradNorm, overflowedAt: null });
      return true;
    },
    take() {
      const taken = made;
      made = [];
      return Promise.resolve(taken);
    },
    close: () => gradients.close(),
  };
}
