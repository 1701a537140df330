/**
 * `cachedBlock` on the wasm heap: a layer as a row of calls on addresses. A step of decoding is some 150 small
 * operations; as tensors of tfjs they cost a third of its time in bookkeeping. The functions are those that the single
 * operations call, in the same order on the same numbers, so the bytes are the same.
 */
import type * as tf from "@tensorflow/tfjs";
import { invariant } from "../../../ops/errors.ts";
import type { BlockShape, BlockWeights, Kernels, Projection } from "../kernels.ts";
import { attendToCaches, checkSequences } from "./cachedAttention.ts";
import { requireShape } from "./fused.ts";
import { KernelHeap } from "./heap.ts";
import type { LinearProducts } from "./linear.ts";
import type { KernelFunctions } from "./module.ts";

export function makeCachedBlock(
  heap: KernelHeap,
  c: KernelFunctions,
  products: LinearProducts,
): NonNullable<Kernels["cachedBlock"]> {
  // Scratch of its own: products and attention use that of `heap`.
  const own = new KernelHeap();
  return (x_RD, weights, tables, sequences, shape) => {
    const [r, d] = x_RD.shape;
    const { numHeads: n, numKeyValueHeads: k, headDim: h, eps } = shape;
    const f = weights.gate.weight.shape[0];
    checkWeights(weights, shape, d, f);
    requireShape("cachedBlock: cos", tables.cos, [r, h / 2]);
    requireShape("cachedBlock: sin", tables.sin, [r, h / 2]);
    checkSequences(heap, sequences, r, [k, h]);
    invariant(heap.owners(x_RD) === 1, "cachedBlock: another tensor shares the bytes of x");
    const places = placesIn(own, [r * d, r * n * h, r * k * h, r * k * h, r * n * h, r * f, r * f, r * d]);
    const [normed, q, key, value, mixed, gate, up, added] = places as Places;
    const [x, cos, sin] = [heap.at(x_RD), heap.at(tables.cos), heap.at(tables.sin)];
    const project = ({ weight, bias }: Projection, from: number, to: number): void => {
      const [outputs, inputs] = weight.shape;
      products.forward(r, outputs, inputs, from, heap.at(weight), bias ? heap.at(bias) : 0, to, false);
    };
    c.rms_norm_forward(r, d, eps, x, heap.at(weights.inputNorm), normed);
    project(weights.q, normed, q);
    project(weights.k, normed, key);
    project(weights.v, normed, value);
    c.rope_rotate(1, r, n, h, q, cos, sin, 1, q);
    c.rope_rotate(1, r, k, h, key, cos, sin, 1, key);
    attendToCaches(heap, c, { q, k: key, v: value, out: mixed }, sequences, [n, k, h]);
    project(weights.o, mixed, added);
    c.add_in_place(r * d, x, added);
    c.rms_norm_forward(r, d, eps, x, heap.at(weights.postNorm), normed);
    project(weights.gate, normed, gate);
    project(weights.up, normed, up);
    c.swiglu_forward(r * f, gate, up, gate);
    project(weights.down, gate, added);
    c.add_in_place(r * d, x, added);
  };
}

type Places = [number, number, number, number, number, number, number, number];

/** @returns addresses of so many blocks of floats, one behind the other. */
function placesIn(heap: KernelHeap, sizes: readonly number[]): number[] {
  let next = heap.scratch(sizes.reduce((sum, size) => sum + size, 0));
  return sizes.map((size) => {
    const place = next;
    next += size * 4;
    return place;
  });
}

function checkWeights(weights: BlockWeights, shape: BlockShape, d: number, f: number): void {
  const { numHeads: n, numKeyValueHeads: k, headDim: h } = shape;
  invariant(k > 0 && n % k === 0, `cachedBlock: ${n} query heads do not share ${k} key/value heads evenly`);
  invariant(h % 2 === 0, `rope turns pairs of dimensions; head_dim is ${h}`);
  const outputs = { q: n * h, k: k * h, v: k * h, o: d, gate: f, up: f, down: d };
  const inputs = { q: d, k: d, v: d, o: n * h, gate: d, up: d, down: f };
  for (const name of Object.keys(outputs) as (keyof typeof outputs)[]) {
    const { weight, bias } = weights[name];
    requireShape(`cachedBlock: ${name}`, weight, [outputs[name], inputs[name]]);
    if (bias) requireShape(`cachedBlock: bias of ${name}`, bias, [outputs[name]]);
  }
  const norms: [string, tf.Tensor][] = [
    ["inputNorm", weights.inputNorm],
    ["postNorm", weights.postNorm],
  ];
  for (const [name, gain] of norms) requireShape(`cachedBlock: ${name}`, gain, [d]);
}
