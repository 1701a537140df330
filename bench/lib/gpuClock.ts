/**
 * How long a GPU computes: every compute pass of a device, whoever records it, writes two timestamps. Their sum
 * beside the wall time of the same stretch is the share of it that the device was busy.
 */

/** Passes of one stretch, at most. */
const capacity = 2048;

export class GpuClock {
  readonly #device: GPUDevice;
  readonly #times: GPUQuerySet;
  #passes = 0;
  #running = false;

  /** @returns null where the device cannot tell the time */
  static on(device: GPUDevice): GpuClock | null {
    return device.features.has("timestamp-query") ? new GpuClock(device) : null;
  }

  private constructor(device: GPUDevice) {
    this.#device = device;
    this.#times = device.createQuerySet({ type: "timestamp", count: 2 * capacity });
    const create = device.createCommandEncoder.bind(device);
    device.createCommandEncoder = (descriptor) => {
      const encoder = create(descriptor);
      const begin = encoder.beginComputePass.bind(encoder);
      encoder.beginComputePass = (pass = {}) => begin({ ...pass, ...this.#stamps() });
      return encoder;
    };
  }

  start(): void {
    this.#passes = 0;
    this.#running = true;
  }

  /** @returns seconds of all passes since `start`; null when there were more than can be counted. */
  async stop(): Promise<number | null> {
    this.#running = false;
    const count = 2 * this.#passes;
    if (this.#passes > capacity) return null;
    const resolved = this.#device.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const read = this.#device.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = this.#device.createCommandEncoder();
    encoder.resolveQuerySet(this.#times, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, read, 0, count * 8);
    this.#device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    const times = new BigUint64Array(read.getMappedRange().slice(0));
    for (const buffer of [resolved, read]) buffer.destroy();
    let nanoseconds = 0n;
    for (let i = 0; i < count; i += 2) nanoseconds += (times[i + 1] ?? 0n) - (times[i] ?? 0n);
    return Number(nanoseconds) / 1e9;
  }

  #stamps(): GPUComputePassDescriptor {
    if (!this.#running || ++this.#passes > capacity) return {};
    const first = 2 * (this.#passes - 1);
    const timestampWrites = {
      querySet: this.#times,
      beginningOfPassWriteIndex: first,
      endOfPassWriteIndex: first + 1,
    };
    return { timestampWrites };
  }
}
