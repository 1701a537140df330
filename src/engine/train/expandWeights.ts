/**
 * The weights of a grown model as a differentiable function of a learned expansion's parameters: what
 * `ops/growth/materialize.ts` computes once, computed inside the tape. The source's weights are constants.
 *
 * Widening is two products of the kernel seam, `linear(rows, linear(columns, W))` = rows W columns^T, so nothing is
 * transposed. Mixing layers is a kernel of its own here: its value is a sum over layers, its gradient one dot product
 * for each of them, and no gradient of the source is ever made.
 */
import * as tf from "@tensorflow/tfjs";
import { tensorSpecs } from "../../ops/architectures/llama.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { AxisForm, Expansion } from "../../ops/growth/index.ts";
import { differentiable } from "../kernels/differentiable.ts";
import type { Kernels } from "../kernels/kernels.ts";
import type { Weights } from "../model/llama.ts";

/** A learned expansion of a model. */
export interface WeightExpansion {
  readonly kernels: Kernels;
  readonly expansion: Expansion;
  readonly target: LlamaConfig;
  /** All weights of the source, float32; not differentiated. */
  readonly source: Weights;
}

/**
 * @param parameters of the expansion, by name
 * @returns every weight of the target; those that nothing changes are the source's own tensors
 */
export function expandWeights(model: WeightExpansion, parameters: Weights): Weights {
  const { kernels, expansion, source } = model;
  const maps = new Map<string, tf.Tensor2D>();
  const mapOf = (form: AxisForm): tf.Tensor2D => {
    const key = form.spread === null ? form.parameter : `${form.parameter} spread`;
    const known = maps.get(key);
    if (known) return known;
    const map = named(parameters, form.parameter) as tf.Tensor2D;
    const made = form.spread === null ? map : spread(kernels, map, form.spread);
    maps.set(key, made);
    return made;
  };
  const grown = tensorSpecs(model.target).map((spec): [string, tf.Tensor] => {
    const { sources, mix, rows, columns } = expansion.formOf(spec);
    const layers = sources.map((name) => named(source, name));
    const mixed = mix === null ? layers[0]! : mixLayers(kernels, named(parameters, mix.parameter), mix.row, layers);
    return [spec.name, widened(kernels, mixed, rows && mapOf(rows), columns && mapOf(columns))];
  });
  return new Map(grown);
}

/** rows W columns^T; a vector is a row of its own, which `rows` widens. */
function widened(
  kernels: Kernels,
  weight: tf.Tensor,
  rows: tf.Tensor2D | null,
  columns: tf.Tensor2D | null,
): tf.Tensor {
  if (weight.rank === 1) {
    if (rows === null) return weight;
    const row = tf.reshape(weight, [1, weight.size]) as tf.Tensor2D;
    return tf.reshape(kernels.linear(row, rows), [rows.shape[0]]);
  }
  const matrix = weight as tf.Tensor2D;
  if (rows === null) return columns === null ? matrix : kernels.linear(matrix, columns);
  const transposed = columns === null ? tf.transpose(matrix) : kernels.linear(columns, matrix);
  return kernels.linear(rows, transposed);
}

/** sum_j depth[row, j] layers[j], differentiable in `depth`. */
function mixLayers(kernels: Kernels, depth: tf.Tensor, row: number, layers: readonly tf.Tensor[]): tf.Tensor {
  const [height = 0, count = 0] = depth.shape;
  return differentiable<tf.Tensor>(
    [depth],
    [],
    () => {
      const part = (layer: tf.Tensor, index: number): tf.Tensor =>
        tf.tidy(() => tf.mul(layer, tf.reshape(tf.slice(depth, [row, index], [1, 1]), [])));
      return layers.slice(1).reduce(
        (sum, layer, index) => {
          const next = part(layer, index + 1);
          const total = tf.add(sum, next);
          tf.dispose([sum, next]);
          return total;
        },
        part(layers[0]!, 0),
      );
    },
    (dy) => {
      const flat = (tensor: tf.Tensor): tf.Tensor2D => tf.reshape(tensor, [1, tensor.size]) as tf.Tensor2D;
      const dots = layers.map((layer) => kernels.linear(flat(layer), flat(dy)));
      const own = dots.length === 1 ? dots[0]! : tf.concat(dots, 1);
      return [
        tf.pad(tf.reshape(own, [1, count]), [
          [row, height - 1 - row],
          [0, 0],
        ]),
      ];
    },
  );
}

/** The value map as a map of the attention output's columns: entries gathered along both axes, then masked. */
function spread(kernels: Kernels, map: tf.Tensor2D, form: NonNullable<AxisForm["spread"]>): tf.Tensor2D {
  const gathered = kernels.embedding(tf.tensor1d(form.rows, "int32"), map);
  const turned = kernels.embedding(tf.tensor1d(form.columns, "int32"), tf.transpose(gathered));
  const mask = tf.tensor2d(form.mask, [form.rows.length, form.columns.length]);
  return tf.mul(tf.transpose(turned), mask);
}

function named(tensors: Weights, name: string): tf.Tensor {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`invariant: there is no tensor ${name} to expand`);
  return tensor;
}
