/**
 * Memory of a served model that its threads share, and who has which part of it: weights, caches, what a step writes.
 * Only one thread hands out and takes back; all may read and write what they are told of. First fit over a list of
 * free blocks in the order of their addresses, which are few: a model's weights never come back, and pages of caches
 * are all of one size.
 */
import { CodedError, invariant } from "../../../ops/errors.ts";

const wasmPageBytes = 65_536;
/** The modules want so many at least. */
const firstPages = 2;
/** A 32-bit memory ends here; addresses and ends of blocks are then still 32-bit numbers. */
const mostPages = 65_535;
/** Blocks begin at multiples of a cache line. */
const alignBytes = 64;

interface Block {
  at: number;
  sizeBytes: number;
}

export class SharedHeap {
  readonly memory: WebAssembly.Memory;
  #free: Block[];
  readonly #used = new Map<number, number>();

  constructor() {
    this.memory = new WebAssembly.Memory({ initial: firstPages, maximum: mostPages + 1, shared: true });
    // Nothing is at address 0.
    this.#free = [{ at: alignBytes, sizeBytes: firstPages * wasmPageBytes - alignBytes }];
  }

  /**
   * @returns the address of a block whose bytes mean nothing yet
   * @throws out_of_memory
   */
  take(wantedBytes: number): number {
    const sizeBytes = Math.max(1, Math.ceil(wantedBytes / alignBytes)) * alignBytes;
    let place = this.#free.findIndex((block) => block.sizeBytes >= sizeBytes);
    if (place < 0) {
      this.#grow(sizeBytes);
      place = this.#free.length - 1;
    }
    const block = this.#free[place]!;
    const { at } = block;
    block.at += sizeBytes;
    block.sizeBytes -= sizeBytes;
    if (block.sizeBytes === 0) this.#free.splice(place, 1);
    this.#used.set(at, sizeBytes);
    return at;
  }

  /** Takes a block back. */
  give(at: number): void {
    const sizeBytes = this.#used.get(at);
    invariant(sizeBytes !== undefined, `nobody has the block at ${at}`);
    this.#used.delete(at);
    const next = this.#free.findIndex((block) => block.at > at);
    this.#free.splice(next < 0 ? this.#free.length : next, 0, { at, sizeBytes });
    const merged: Block[] = [];
    for (const block of this.#free) {
      const last = merged.at(-1);
      if (last && last.at + last.sizeBytes === block.at) last.sizeBytes += block.sizeBytes;
      else merged.push(block);
    }
    this.#free = merged;
  }

  /** Bytes that are handed out. */
  get usedBytes(): number {
    return [...this.#used.values()].reduce((sum, size) => sum + size, 0);
  }

  /** Makes the last free block at least so large. */
  #grow(sizeBytes: number): void {
    const end = this.memory.buffer.byteLength;
    const last = this.#free.at(-1);
    const spare = last && last.at + last.sizeBytes === end ? last.sizeBytes : 0;
    const pages = Math.ceil((sizeBytes - spare) / wasmPageBytes);
    try {
      if (this.memory.buffer.byteLength / wasmPageBytes + pages > mostPages) throw new RangeError("4 GiB");
      this.memory.grow(pages);
    } catch (cause) {
      const message = `no room for ${sizeBytes} bytes more in the ${this.memory.buffer.byteLength} of the model`;
      throw new CodedError("out_of_memory", message, { cause });
    }
    if (spare > 0) last!.sizeBytes += pages * wasmPageBytes;
    else this.#free.push({ at: end, sizeBytes: pages * wasmPageBytes });
  }
}
