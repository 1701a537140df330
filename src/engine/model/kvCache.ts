/**
 * The keys and values of one sequence, layer by layer, so that a new position costs one position's work. The
 * tensors are longer than what is in them: capacity grows by half of what is held, so that copying costs little
 * however long a text gets, and in steps, because a buffer pool keyed by exact size (tfjs's WebGPU backend) would
 * otherwise keep one buffer for every length there ever was. Attention never reads beyond the query's own position,
 * so the tail is never seen.
 *
 * A cache is filled by the model alone: one `append` for each layer, then one `advance`.
 */
import * as tf from "@tensorflow/tfjs";
import type { Kernels } from "../kernels/kernels.ts";

/** Capacity is a multiple of this many positions. */
const capacityStep = 64;
/** Room made when a cache must grow, of what it must hold then. */
const growth = 1.5;

interface Layer {
  /** [1, capacity, K, H]; what lies at position `length` and beyond means nothing. */
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

export class KvCache {
  readonly #layers: (Layer | null)[];
  readonly #most: number;
  #length = 0;

  /** @param most positions that it will ever hold, where that is known: no room is made beyond them */
  constructor(numLayers: number, most = Infinity) {
    this.#layers = new Array<Layer | null>(numLayers).fill(null);
    this.#most = most;
  }

  /** Positions held: the offset of the next one. */
  get length(): number {
    return this.#length;
  }

  /** Positions that the tensors have room for. */
  get room(): number {
    return this.#layers[0]?.keys.shape[1] ?? 0;
  }

  /** Bytes of the tensors held. */
  get sizeBytes(): number {
    return this.#layers.reduce((sum, layer) => sum + (layer ? (layer.keys.size + layer.values.size) * 4 : 0), 0);
  }

  /**
   * Puts the keys and values of new positions, [B, T, K, H] each, behind those held.
   * @param sequence the one of the B that is this cache's
   * @param kernels write in place where they can and there is room; else everything is copied
   * @returns what attention may read, [1, S >= length + T, K, H] each; owned by the cache
   */
  append(
    layer: number,
    k_BTKH: tf.Tensor4D,
    v_BTKH: tf.Tensor4D,
    sequence = 0,
    kernels: Pick<Kernels, "writePositions"> = {},
  ): { k_1SKH: tf.Tensor4D; v_1SKH: tf.Tensor4D } {
    const before = this.#layers[layer] ?? null;
    const { writePositions } = kernels;
    if (before && writePositions && this.#length + k_BTKH.shape[1] <= before.keys.shape[1]) {
      writePositions(before.keys, this.#length, k_BTKH, sequence);
      writePositions(before.values, this.#length, v_BTKH, sequence);
      return { k_1SKH: before.keys, v_1SKH: before.values };
    }
    const used = this.#length + k_BTKH.shape[1];
    // What is copied at every position needs no room for more.
    const room = writePositions ? this.#roomFor(used) : inSteps(used);
    const keys = extended(before?.keys ?? null, k_BTKH, sequence, this.#length, room);
    const values = extended(before?.values ?? null, v_BTKH, sequence, this.#length, room);
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

  /**
   * @param most as the constructor's
   * @returns a cache of the first `length` positions: copies, for kernels may write into this one's tensors
   */
  fork(length: number, most = Infinity): KvCache {
    if (length > this.#length) throw new Error(`invariant: no fork of ${length} positions of ${this.#length}`);
    const fork = new KvCache(this.#layers.length, most);
    if (length === 0) return fork;
    const copy = (held: tf.Tensor4D): tf.Tensor4D => tf.keep(firstOf(held, length));
    for (const [index, layer] of this.#layers.entries()) {
      if (layer) fork.#layers[index] = { keys: copy(layer.keys), values: copy(layer.values) };
    }
    fork.#length = length;
    return fork;
  }

  /** @returns the capacity that a cache which must hold so many positions gets. */
  #roomFor(positions: number): number {
    return inSteps(Math.max(positions, Math.min(positions * growth, this.#most)));
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

/** @returns sequence `index` of a batch, [1, T, N, H]. */
export function sequenceOf(x_BTNH: tf.Tensor4D, index: number): tf.Tensor4D {
  const [batch, length, heads, headDim] = x_BTNH.shape;
  return batch === 1 ? x_BTNH : tf.slice(x_BTNH, [index, 0, 0, 0], [1, length, heads, headDim]);
}

/** @returns the first `length` positions of `held`, then those of the sequence, then zeros to the capacity; kept. */
function extended(
  held: tf.Tensor4D | null,
  added: tf.Tensor4D,
  sequence: number,
  length: number,
  capacity: number,
): tf.Tensor4D {
  const [, positions, heads, headDim] = added.shape;
  const used = length + positions;
  return tf.tidy(() => {
    const parts: tf.Tensor4D[] = [sequenceOf(added, sequence)];
    if (held && length > 0) parts.unshift(firstOf(held, length));
    if (capacity > used) parts.push(tf.fill([1, capacity - used, heads, headDim], 0) as tf.Tensor4D);
    return tf.keep(parts.length === 1 ? tf.clone(parts[0] as tf.Tensor4D) : tf.concat(parts, 1));
  });
}

function inSteps(positions: number): number {
  return Math.ceil(positions / capacityStep) * capacityStep;
}

function firstOf(held: tf.Tensor4D, length: number): tf.Tensor4D {
  const [, , heads, headDim] = held.shape;
  return tf.slice(held, [0, 0, 0, 0], [1, length, heads, headDim]);
}
