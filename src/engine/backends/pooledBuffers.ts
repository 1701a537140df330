/**
 * The buffers of a GPU device, in place of tfjs's own manager, which keeps every buffer it ever made under its exact
 * size: prompts of all lengths would fill the device. Here a buffer that is given back waits for the next request of
 * its size, and when too much is waiting, what has waited longest is destroyed.
 */

interface Free {
  readonly buffer: GPUBuffer;
  readonly key: string;
}

/** Bytes that may wait beside as many as are in use. */
const spareBytes = 256 * 2 ** 20;

export class PooledBuffers {
  readonly #device: GPUDevice;
  /** Insertion order is waiting order. */
  readonly #free = new Set<Free>();
  readonly #freeByKey = new Map<string, Free[]>();
  #freeBytes = 0;
  /** Read by tfjs's `memory()`. */
  numBytesUsed = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  get numBytesAllocated(): number {
    return this.numBytesUsed + this.#freeBytes;
  }

  /** As tfjs's manager. A buffer that is to be mapped at its creation is always a new one. */
  acquireBuffer(size: number, usage: number, mappedAtCreation = false, reuse = true): GPUBuffer {
    this.numBytesUsed += size;
    const waiting = reuse ? this.#freeByKey.get(keyOf(size, usage))?.pop() : undefined;
    if (waiting) {
      this.#free.delete(waiting);
      this.#freeBytes -= size;
      return waiting.buffer;
    }
    return this.#device.createBuffer({ size, usage, mappedAtCreation });
  }

  releaseBuffer(buffer: GPUBuffer, reuse = true): void {
    const { size, usage } = buffer;
    this.numBytesUsed -= size;
    if (!reuse) return buffer.destroy();
    const entry = { buffer, key: keyOf(size, usage) };
    this.#free.add(entry);
    const sameKey = this.#freeByKey.get(entry.key);
    if (sameKey) sameKey.push(entry);
    else this.#freeByKey.set(entry.key, [entry]);
    this.#freeBytes += size;
    while (this.#freeBytes > this.numBytesUsed + spareBytes) this.#destroyOldest();
  }

  dispose(): void {
    while (this.#free.size > 0) this.#destroyOldest();
  }

  /** What a buffer was used for has been submitted before it came here, and a device finishes that first. */
  #destroyOldest(): void {
    const [oldest] = this.#free;
    if (!oldest) return;
    this.#free.delete(oldest);
    const sameKey = this.#freeByKey.get(oldest.key) ?? [];
    sameKey.splice(sameKey.indexOf(oldest), 1);
    if (sameKey.length === 0) this.#freeByKey.delete(oldest.key);
    this.#freeBytes -= oldest.buffer.size;
    oldest.buffer.destroy();
  }
}

function keyOf(size: number, usage: number): string {
  return `${size} ${usage}`;
}
