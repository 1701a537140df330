/** `causalAttention` on the GPU: which of the attention programs runs, on which grid. See attention.ts. */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import { requireShape, runFused, saved } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import type { AttentionPrograms } from "./attention.ts";
import { attentionDecode, mostDecoded } from "./attentionDecode.ts";
import { attentionLanes } from "./attentionLanes.ts";
import { attentionTiles } from "./attentionTiles.ts";
import type { Gpu } from "./gpu.ts";
import type { Program } from "./program.ts";
import type { PlainFamily } from "./products.ts";

/** Programs for one head_dim, made when they are first needed. */
interface HeadPrograms extends AttentionPrograms {
  readonly decode: Program;
}

export function makeCausalAttention(gpu: Gpu, family: PlainFamily): Kernels["causalAttention"] {
  const known = new Map<number, HeadPrograms>();
  const programsOf = (headDim: number): HeadPrograms => {
    const found = known.get(headDim);
    if (found) return found;
    const programs = family === "lanes" ? attentionLanes(headDim) : attentionTiles(headDim);
    const made = { ...programs, decode: attentionDecode(headDim, family === "lanes" ? 8 : 64) };
    known.set(headDim, made);
    return made;
  };
  return (q_BTNH, k_BSKH, v_BSKH, offset) => {
    const [b, t, n, h] = q_BTNH.shape;
    const [, s, k] = k_BSKH.shape;
    requireShape("causalAttention: k", k_BSKH, [b, s, k, h]);
    requireShape("causalAttention: v", v_BSKH, [b, s, k, h]);
    invariant(k > 0 && n % k === 0, `causalAttention: ${n} query heads do not share ${k} key/value heads evenly`);
    const fits = Number.isSafeInteger(offset) && offset >= 0 && offset + t <= s;
    invariant(fits, `causalAttention: ${t} queries at offset ${offset} do not fit ${s} keys`);
    const programs = programsOf(h);
    const numbers = [t, s, n, k, offset, 1 / Math.sqrt(h)];
    const blocks = (positions: number): number => Math.ceil(positions / programs.block);
    return runFused<tf.Tensor4D>({
      inputs: [q_BTNH, k_BSKH, v_BSKH],
      forward: (wantGradient) => {
        const value = gpu.output<tf.Tensor4D>([b, t, n, h]);
        if (!wantGradient && t <= mostDecoded) {
          // The offset moves on with every token.
          const options = { groups: [t, n, b], numbers, passing: true } as const;
          gpu.run(programs.decode, [q_BTNH, k_BSKH, v_BSKH, value], options);
          return { value };
        }
        const lse_BNT = gpu.output([b, n, t]);
        const inputs = [q_BTNH, k_BSKH, v_BSKH];
        gpu.run(programs.forward, [...inputs, value, lse_BNT], { groups: [blocks(t), n, b], numbers });
        return { value, kept: [value, lse_BNT] };
      },
      backward: (dy, tensors) => {
        invariant(offset === 0 && s === t, "causalAttention is differentiated only where all keys are its own");
        const [q, keys, values, y, lse] = [0, 1, 2, 3, 4].map((index) => saved(tensors, index)) as [
          ...[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor],
        ];
        const [dq, dk, dv, delta] = [
          gpu.output(q.shape),
          gpu.output([b, s, k, h]),
          gpu.output([b, s, k, h]),
          gpu.output([b, n, t]),
        ];
        gpu.run(programs.backwardQueries, [q, keys, values, y, dy, lse, dq, delta], {
          groups: [blocks(t), n, b],
          numbers,
        });
        gpu.run(programs.backwardKeys, [q, keys, values, dy, lse, delta, dk, dv], {
          groups: [blocks(s), k, b],
          numbers,
        });
        delta.dispose();
        return [dq, dk, dv];
      },
    });
  };
}
