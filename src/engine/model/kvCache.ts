/**
 * The keys and values of one sequence, layer by layer, so that a new position costs one position's work. The
 * tensors are longer than what is in them: capacity goes in steps, because a buffer pool keyed by exact
 * size (tfjs's WebGPU backend) would otherwise keep one buffer for every length there ever was. Attention
 * never reads beyond the query's own position, so the tail is never seen.
 *
 * A cache is filled by the model alone: one `append` for each layer, then one `advance`.
 */
import * as tf from "@tensorflow/tfjs";

/** Capacity is a multiple of this many positions. */
const capacityStep = 64;

interface Layer {
  /** [1, capacity, K, H]; position `length` and beyond hold zeros. */
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

export class KvCache {
  readonly #layers: (Layer | null)[];
  #length = 0;

  constructor(numLayers: number) {
    this.#layers = new Array<Layer | null>(numLayers).fill(null);
  }

  /** Positions held: the offset of the next one. */
  get length(): number {
    return this.#length;
  }

  /** Bytes of the tensors held. */
  get sizeBytes(): number {
    return this.#layers.reduce((sum, layer) => sum + (layer ? (layer.keys.size + layer.values.size) * 4 : 0), 0);
  }

  /**
   * Puts the keys and values of new positions, [1, T, K, H] each, behind those held.
   * @returns what attention may read, [1, S >= length + T, K, H] each; owned by the cache
   */
  append(layer: number, k_1TKH: tf.Tensor4D, v_1TKH: tf.Tensor4D): { k_1SKH: tf.Tensor4D; v_1SKH: tf.Tensor4D } {
    const before = this.#layers[layer] ?? null;
    const keys = extended(before?.keys ?? null, k_1TKH, this.#length);
    const values = extended(before?.values ?? null, v_1TKH, this.#length);
    before?.keys.dispose();
    before?.values.dispose();
    this.#layers[layer] = { keys, values };
    return { k_1SKH: keys, v_1SKH: values };
  }

  /** Counts `positions` more as held, after all layers have been given them. */
  advance(positions: number): void {
    this.#length += positions;
  }

  /** Forgets all positions from `length` on. */
  truncate(length: number): void {
    const isWithin = length >= 0 && length <= this.#length;
    if (!isWithin) throw new Error(`invariant: cannot cut ${this.#length} positions to ${length}`);
    this.#length = length;
  }

  dispose(): void {
    for (const layer of this.#layers) {
      layer?.keys.dispose();
      layer?.values.dispose();
    }
    this.#layers.fill(null);
    this.#length = 0;
  }
}

/** @returns the first `length` positions of `held`, then `added`, then zeros up to the capacity; kept. */
function extended(held: tf.Tensor4D | null, added: tf.Tensor4D, length: number): tf.Tensor4D {
  const [, positions, heads, headDim] = added.shape;
  const used = length + positions;
  const capacity = Math.ceil(used / capacityStep) * capacityStep;
  return tf.tidy(() => {
    const parts: tf.Tensor4D[] = [added];
    if (held && length > 0) parts.unshift(tf.slice(held, [0, 0, 0, 0], [1, length, heads, headDim]));
    if (capacity > used) parts.push(tf.zeros([1, capacity - used, heads, headDim]));
    return tf.keep(parts.length === 1 ? tf.clone(added) : tf.concat(parts, 1));
  });
}
