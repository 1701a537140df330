/** `embedding` on the wasm heap; see c/embedding.c. */
import type * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../../ops/errors.ts";
import { runFused, saved } from "./fused.ts";
import type { KernelHeap } from "./heap.ts";
import type { KernelFunctions } from "./module.ts";
import type { Kernels } from "../kernels.ts";

export function makeEmbedding(heap: KernelHeap, c: KernelFunctions): Kernels["embedding"] {
  return (ids_R, table_VD) => {
    const r = ids_R.shape[0];
    const [v, d] = table_VD.shape;
    return runFused<tf.Tensor2D>({
      inputs: [table_VD],
      constants: [ids_R],
      forward: () => {
        const value = heap.output<tf.Tensor2D>([r, d]);
        const bad = c.embedding_gather(r, v, d, heap.at(ids_R, "int32"), heap.at(table_VD), heap.at(value));
        if (bad >= 0) {
          value.dispose();
          throw new CodedError("invalid_request", `token ${bad} of ${r}: its id is not in 0 .. ${v - 1}`);
        }
        return { value };
      },
      backward: (dy_RD, tensors) => {
        const dTable_VD = heap.output([v, d]);
        const ids = heap.at(saved(tensors, 1), "int32");
        c.embedding_scatter(r, v, d, ids, heap.at(dy_RD), heap.at(dTable_VD));
        return [dTable_VD];
      },
    });
  };
}
