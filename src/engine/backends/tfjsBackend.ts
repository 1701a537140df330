/**
 * The `Backend` interface over tfjs, without tfjs: a name, a probe, and four doors to `tfjsCompute.ts`, which
 * is loaded when the first of them is opened.
 */
import type { Backend } from "./backend.ts";
import type { TfjsCompute } from "./tfjsCompute.ts";

export interface TfjsBackendOptions extends Pick<Backend, "name" | "description" | "preference"> {
  readonly probe: Backend["probe"];
  readonly compute: TfjsCompute;
}

/** Whether its kernels have the shared memory of `infer/teamModel.ts` beside them. */
export function keepsHalf({ tfjs, kernels }: TfjsCompute): boolean {
  return tfjs === "wasm" && kernels !== "reference";
}

/** @returns a backend that computes with tfjs. */
export function createTfjsBackend({ compute, ...rest }: TfjsBackendOptions): Backend {
  const loaded = () => import("./tfjsCompute.ts");
  return {
    ...rest,
    keepsHalf: keepsHalf(compute),
    async *train(work, signal) {
      yield* (await loaded()).runTraining(compute, work, signal);
    },
    async *fit(work, signal) {
      yield* (await loaded()).runFit(compute, work, signal);
    },
    async *evaluate(work, signal) {
      yield* (await loaded()).runEvaluation(compute, work, signal);
    },
    async *compare(work, signal) {
      yield* (await loaded()).runComparison(compute, work, signal);
    },
    async load(checkpoint, options) {
      return (await loaded()).load(compute, checkpoint, options);
    },
  };
}
